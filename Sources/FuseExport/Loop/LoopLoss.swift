// Finds out whether a map that crashed has lost something, which the command that takes it down must report. A writing
// server keeps changes of the mapping in memory until a sync: when it is killed, the supervisor has that memory for the
// next server; when both are killed it is gone, and with it what was written since the last sync.
import DiskTypes
import Glibc
import LinuxIO
import MapRegistry

/// What is lost with a map whose processes are gone.
enum LoopLoss {
    /// The error for a map whose processes were both killed, if something may have been written that the image lacks;
    /// nil otherwise. To be called before the device is taken down.
    static func find(_ record: MapRecord) -> ImageError? {
        guard !record.readOnly, record.server != nil, record.trouble == nil, !LoopCleanup.isServed(record) else {
            return nil
        }
        if let number = record.loops.first, record.ownsLoop(number), !hasWritten(number, record) { return nil }
        return ImageError(
            .system, "its server and its supervisor were killed: what was written since the last sync may be lost",
            advice: "check what is on \(record.image)")
    }

    /// The error for a writable map that was given up while it was there.
    static func givenUp(_ record: MapRecord) -> ImageError? {
        guard !record.readOnly, let failure = record.failure else { return nil }
        return ImageError(
            .system, "\(failure), and the map was given up: what was written since the last sync may be lost",
            advice: "copy what is left with qblk convert --salvage -f \(record.format) \(record.image) OUTPUT")
    }

    /// Sectors of the device that were written or discarded since the machine started; nil where the kernel does not
    /// count them. (Requests are no measure: a flush is one, too.)
    static func changes(_ number: Int32) -> UInt64? {
        // Documentation/block/stat: fields 7 and 14 are sectors written and discarded.
        let fields = Filesystem.readIfThere("/sys/block/loop\(number)/stat")?.split(whereSeparator: \.isWhitespace)
        guard let fields, fields.count > 13, let written = UInt64(fields[6]), let discarded = UInt64(fields[13]) else {
            return nil
        }
        return written &+ discarded
    }

    private static func hasWritten(_ number: Int32, _ record: MapRecord) -> Bool {
        // What is still in the device's page cache was acknowledged, too. Written now, it fails, and is counted.
        if let mountPoint = record.mountPoint { LoopCleanup.abort(mountPoint) }
        let fd = unsafe open(record.device, O_RDONLY | O_CLOEXEC)
        if fd >= 0 {
            fsync(fd)
            close(fd)
        }
        guard let before = record.changesBefore, let now = changes(number) else { return true }
        return now != before
    }
}
