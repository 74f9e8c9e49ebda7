// Two qblk commands must not change one registry at once. The lock ends with the process, however it ends, so a crash
// never leaves one behind.
import Glibc
public import SystemPackage

/// An exclusive lock on a file made for the purpose, given back when dropped. The file stays: removing it would let two
/// processes lock two files of one name.
public struct LockFile: ~Copyable, Sendable {
    private let owned: OwnedFD

    /// Waits for the lock, or without `wait` returns nil when another process holds it.
    public static func acquire(_ path: FilePath, wait: Bool = true, mode: UInt32 = 0o600) throws(Errno) -> LockFile? {
        let flags = O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY
        let file = OwnedFD(taking: try retrying { path.open(flags, mode) })
        let raw = file.raw
        do throws(Errno) {
            try retrying { flock(raw, wait ? LOCK_EX : LOCK_EX | LOCK_NB) }
        } catch {
            if error == .wouldBlock || error == .resourceTemporarilyUnavailable { return nil }
            throw error
        }
        return LockFile(owned: file)
    }

    private init(owned: consuming OwnedFD) { self.owned = owned }
}
