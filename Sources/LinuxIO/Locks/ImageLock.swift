// One image, one writer. The locks are QEMU's own (byte ranges on the open file description), so that qemu-img
// refuses an image that qblk uses, and qblk one that a VM uses.
import CQblk
public import DiskTypes
import Glibc
import SystemPackage

/// What a user of an image does to it and what it suffers others to do meanwhile, as QEMU's locks express it.
public enum LockMode: Sendable {
    /// Reads a format image: no other process may write or resize.
    case readOnlyImage
    /// Reads and writes an image: no other process may write or resize.
    case writableImage
    /// Reads a raw backing file, or whatever `--force-share` means: others may do what they like.
    case rawBacking
    case none

    /// Permissions in use.
    var used: [ImageLock.Permission] {
        switch self {
        case .readOnlyImage, .rawBacking: [.consistentRead]
        case .writableImage: [.consistentRead, .write, .resize]
        case .none: []
        }
    }
    /// Permissions that no other process may use.
    var unshared: [ImageLock.Permission] {
        switch self {
        case .readOnlyImage, .writableImage: [.write, .resize]
        case .rawBacking, .none: []
        }
    }
}

/// Takes and gives back QEMU's image locks.
///
/// A lock hangs on the open file description behind `HostFile.fd`. It ends when the last descriptor of that
/// description is closed: duplicates, children that inherited it, and a loop device made of it keep it alive.
/// Closing other descriptors of the same file does no harm. So there is nothing to hold on to, and no `deinit`.
public enum ImageLock {
    enum Permission: UInt64, CaseIterable {
        case consistentRead = 0, write, writeUnchanged, resize

        /// The byte that says "I use this".
        var usedByte: UInt64 { 100 + rawValue }
        /// The byte that denies this permission to others.
        var unsharedByte: UInt64 { 200 + rawValue }
        /// As QEMU words it.
        var name: String {
            switch self {
            case .consistentRead: "consistent read"
            case .write: "write"
            case .writeUnchanged: "write unchanged"
            case .resize: "resize"
            }
        }
    }

    /// Locks `file` in exactly this mode: bytes of an earlier mode that this one lacks are given back.
    /// On a conflict the file is as unlocked as `release` leaves it, and the error is `.locked`.
    ///
    /// `joining`: another process of ours holds the same locks and has asked who else does. They are raised here too, so
    /// that they last as long as either lives; no test is made again, because it would find that lock.
    public static func take(_ mode: LockMode, on file: HostFile, joining: Bool = false) throws(ImageError) {
        do throws(ImageError) {
            // First raise the flags, then look for others': of two that come at once at most one gets through.
            for permission in Permission.allCases {
                try set(file, permission.usedByte, mode.used.contains(permission))
                try set(file, permission.unsharedByte, mode.unshared.contains(permission))
            }
            if joining { return }
            for permission in mode.used where try isHeld(file, permission.unsharedByte) {
                throw conflict("Failed to get \"\(permission.name)\" lock", file)
            }
            for permission in mode.unshared where try isHeld(file, permission.usedByte) {
                throw conflict("Failed to get shared \"\(permission.name)\" lock", file)
            }
        } catch {
            release(file)
            throw error
        }
    }

    /// Gives all locks back, also for duplicates of the descriptor, a loop device's included.
    public static func release(_ file: HostFile) {
        for permission in Permission.allCases {
            _ = qb_ofd_lock(file.fd, Int16(F_UNLCK), permission.usedByte, 1)
            _ = qb_ofd_lock(file.fd, Int16(F_UNLCK), permission.unsharedByte, 1)
        }
    }

    private static func set(_ file: HostFile, _ byte: UInt64, _ held: Bool) throws(ImageError) {
        while qb_ofd_lock(file.fd, Int16(held ? F_RDLCK : F_UNLCK), byte, 1) != 0 {
            let number = errno
            if number == EINTR { continue }
            if lacksLocks(number) { return }
            // Ours are read locks, which never conflict: only an alien program's write lock gets here.
            if number == EAGAIN || number == EACCES { throw conflict("Failed to lock byte \(byte)", file) }
            throw file.failed("lock byte \(byte)", number)
        }
    }

    private static func isHeld(_ file: HostFile, _ byte: UInt64) throws(ImageError) -> Bool {
        let answer = qb_ofd_test(file.fd, Int16(F_WRLCK), byte, 1)
        if answer >= 0 { return answer == 1 }
        if lacksLocks(errno) { return false }
        throw file.failed("test the lock on byte \(byte)")
    }

    /// Some network file systems have no such locks; QEMU's locking=auto goes on without, and so do we.
    static func lacksLocks(_ number: Int32) -> Bool {
        [EINVAL, ENOLCK, EOPNOTSUPP, ENOSYS].contains(number)
    }

    private static func conflict(_ what: String, _ file: HostFile) -> ImageError {
        ImageError(.locked, what, advice: "Is another process using the image?", path: file.path)
    }
}
