// A file that is looked at and then opened again by its name may be another one by then, even with the same inode number if
// the first was removed. A pin keeps that number taken.
import CQblk
public import DiskTypes
import Glibc
public import SystemPackage

/// A file that is neither read nor written, only kept in existence.
public struct FilePin: ~Copyable, Sendable {
    /// Which file it is. No other file gets this identity while the pin lives.
    public let identity: FileIdentity
    private let descriptor: OwnedFD

    /// Pins the file that `path` leads to. `.system` where it cannot be opened (O_PATH: no right to read it is needed).
    public init(_ path: FilePath) throws(ImageError) {
        let fd = path.open(Int32(QB_O_PATH) | O_CLOEXEC)
        guard fd >= 0 else {
            throw ImageError(.system, "cannot open: \(errorText(errno))", path: path, number: errno)
        }
        let owned = OwnedFD(taking: fd)
        identity = FileIdentity(try HostFile.status(of: fd))
        descriptor = owned
    }
}
