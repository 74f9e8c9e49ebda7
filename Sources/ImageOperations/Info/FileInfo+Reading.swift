// What the host says about an image's file, without looking into it.

import DiskTypes
import Glibc
import LinuxIO
import SystemPackage

extension FileInfo {
    init(_ file: HostFile, path: FilePath) throws(ImageError) {
        let length = file.length
        self.init(
            filename: path, isBlockDevice: file.isBlockDevice,
            length: length > UInt64.max - 511 ? length : (length + 511) & ~511,
            // A device takes no space on a file system, and qemu-img says 0.
            actualSize: file.isBlockDevice ? 0 : try file.diskUsage(),
            extentSizeHint: file.isBlockDevice ? nil : Self.extentSizeHint(file.fd))
    }

    /// FS_IOC_FSGETXATTR, its struct fsxattr as bytes: xflags, extsize, and 20 more.
    private static func extentSizeHint(_ fd: Int32) -> UInt32? {
        let request: UInt = 2 << 30 | 28 << 16 | UInt(UInt8(ascii: "X")) << 8 | 31
        let hasHint: UInt32 = 0x800
        var words = [UInt32](repeating: 0, count: 7)
        guard unsafe ioctl(fd, request, &words) == 0, words[0] & hasHint != 0, words[1] != 0 else { return nil }
        return words[1]
    }
}
