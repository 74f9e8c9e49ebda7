// `/dev/mapper/NAME` must be readable when `map` returns, on machines with and without udev, and no node may stay
// behind that names a foreign device later.

import CQblk
import DiskTypes
import Glibc

enum DMNode {
    static func path(_ name: String) -> String { "/dev/mapper/\(name)" }

    /// Sees to it that /dev/mapper/`name` is the device `number`.
    static func ensure(name: String, number: DeviceNumber) throws(ImageError) {
        if isDevice(path(name), number) { return }
        refresh(name: name)
        if isDevice(path(name), number) { return }
        // The last resort: a link to the kernel's own node, as udev would make it.
        _ = unsafe unlink(path(name))
        _ = unsafe symlink("../dm-\(number.minor)", path(name))
        guard isDevice(path(name), number) else {
            throw ImageError(.system, unsafe "\(path(name)) cannot be made: \(String(cString: strerror(errno)))")
        }
    }

    /// Makes the node if the device is there and removes it if the device is not, as `dmsetup mknodes` does.
    static func refresh(name: String) {
        _ = try? DeviceMapper.shared.attempt { () throws(DMFailure) in
            unsafe dm_mknodes(name)
            dm_task_update_nodes()
        }
    }

    private static func isDevice(_ path: String, _ number: DeviceNumber) -> Bool {
        var status = stat()
        guard unsafe stat(path, &status) == 0, status.st_mode & S_IFMT == S_IFBLK else { return false }
        return qb_major(UInt64(status.st_rdev)) == number.major && qb_minor(UInt64(status.st_rdev)) == number.minor
    }
}
