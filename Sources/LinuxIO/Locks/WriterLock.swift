// A process that was killed is gone before its io_uring writes are. The next process that writes must wait for the
// last of them, or it would be overwritten by what its predecessor had sent.
import CQblk
public import DiskTypes
import Glibc

/// One exclusive lock for each open file description that writes go through. A request in flight keeps its description
/// open, and with it the lock. QEMU knows nothing of these bytes; its own locks (`ImageLock`) say who may write at all.
public enum WriterLock {
    /// Away from QEMU's bytes 100... and 200...
    private static let bufferedByte: UInt64 = 300
    private static let directByte: UInt64 = 301

    /// Waits until no other process has writes to `file` in flight, at most `milliseconds`. Afterwards the file's length is looked
    /// at anew: the last of those writes may have changed it.
    public static func take(on file: HostFile, milliseconds: Int64 = 30_000) throws(ImageError) {
        let end = MonotonicClock.milliseconds() + milliseconds
        try take(bufferedByte, file.fd, file, until: end)
        // Without a second description the first holds both: who has one must wait for who has not.
        try take(directByte, file.directFD >= 0 ? file.directFD : file.fd, file, until: end)
        _ = try file.currentLength()
    }

    private static func take(
        _ byte: UInt64, _ fd: Int32, _ file: HostFile, until end: Int64
    ) throws(ImageError) {
        while qb_ofd_lock(fd, Int16(F_WRLCK), byte, 1) != 0 {
            let number = errno
            if ImageLock.lacksLocks(number) { return }
            guard [EINTR, EAGAIN, EACCES].contains(number) else { throw file.failed("lock byte \(byte)", number) }
            guard MonotonicClock.milliseconds() < end else {
                throw ImageError(
                    .locked, "writes of another process are still under way",
                    advice: "Is another qblk using the image?", path: file.path)
            }
            usleep(10_000)
        }
    }
}
