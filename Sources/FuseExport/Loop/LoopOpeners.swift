// Finds the users of a loop device, and detaches it when there are none. The kernel knows of mounts and exclusive
// users; programs that only have the device open are found in /proc.
import CQblk
import DiskTypes
import Glibc
import LinuxIO
import MapRegistry
import SystemPackage

/// The users of a loop device, and its removal when there are none.
enum LoopOpeners {
    /// Detaches /dev/loopN if it is still the map's and not in use. With `deferred` a device in use is detached when
    /// its last user closes it. True when it is gone on return.
    @discardableResult
    static func detach(_ number: Int32, of record: MapRecord, deferred: Bool = false) throws(ImageError) -> Bool {
        guard record.ownsLoop(number) else { return true }
        let device = try LoopDevice.open(number)
        if deferred {
            try device.detach()
            return !record.ownsLoop(number)
        }
        try waitUntilFree(device)
        try device.detach()
        for _ in 0..<50 {
            if !record.ownsLoop(number) { return true }
            usleep(10_000)
        }
        // It was opened meanwhile, and the kernel waits for its users now. Undo the detach, and throw.
        keep(number)
        throw inUse(device, users(of: device))
    }

    /// Throws when the device is in use. udev and similar programs open a device for a moment, so it counts as
    /// in use only when it stays so for a second.
    private static func waitUntilFree(_ device: LoopDevice) throws(ImageError) {
        var found: [String] = []
        for _ in 0..<20 {
            found = users(of: device)
            if found.isEmpty { return }
            usleep(50_000)
        }
        throw inUse(device, found)
    }

    private static func inUse(_ device: LoopDevice, _ users: [String]) -> ImageError {
        let who = users.isEmpty ? "" : " (\(users.prefix(3).joined(separator: ", ")))"
        return ImageError(
            .locked, "\(device.path) is in use\(who)", advice: "end that first, or use --deferred")
    }

    static func users(of device: LoopDevice) -> [String] {
        let known = device.users()
        return known.isEmpty ? openers(of: device) : known
    }

    /// Processes that have the device or a partition of it open.
    private static func openers(of device: LoopDevice) -> [String] {
        let own = getpid()
        var found: [String] = []
        for entry in Filesystem.listIfThere("/proc") {
            guard let pid = Int32(entry), pid != own else { continue }
            let folder: FilePath = "/proc/\(pid)/fd"
            guard Filesystem.listIfThere(folder).contains(where: { isDevice(device, folder.appending($0)) }) else {
                continue
            }
            let name = Filesystem.readIfThere("/proc/\(pid)/comm")?.split(separator: "\n").first ?? "?"
            found.append("open in \(name), pid \(pid)")
        }
        return found
    }

    private static func isDevice(_ device: LoopDevice, _ link: FilePath) -> Bool {
        guard let path = link.linkTarget()?.name.text, path.hasPrefix(device.path) else { return false }
        let rest = path.dropFirst(device.path.count)
        return rest.isEmpty || (rest.first == "p" && rest.dropFirst().allSatisfy(\.isNumber))
    }

    /// Clears AUTOCLEAR, which a detach of a device in use sets.
    private static func keep(_ number: Int32) {
        let fd = unsafe open("/dev/loop\(number)", O_RDONLY | O_CLOEXEC)
        guard fd >= 0 else { return }
        defer { close(fd) }
        var info = loop_info64()
        guard unsafe ioctl(fd, UInt(QB_LOOP_GET_STATUS64), &info) == 0 else { return }
        info.lo_flags &= ~QB_LO_FLAGS_AUTOCLEAR
        _ = unsafe ioctl(fd, UInt(QB_LOOP_SET_STATUS64), &info)
    }
}
