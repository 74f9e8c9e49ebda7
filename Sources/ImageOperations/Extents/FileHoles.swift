// Raw images have no tables; what is allocated in them only the host's file system knows.

import DiskTypes
import LinuxIO

extension HostFile {
    /// Whether the bytes at `offset` lie in a hole (or past the end), and how far that holds. A file system that
    /// cannot say has no holes. Throws when the file does not have the range any more: that is no hole.
    func holeStatus(at offset: UInt64, length: UInt64) throws(ImageError) -> (isHole: Bool, length: UInt64) {
        let status = askForHole(at: offset, length: length)
        if status.isHole { try requireBytes(upTo: offset + status.length) }
        return status
    }

    private func askForHole(at offset: UInt64, length: UInt64) -> (isHole: Bool, length: UInt64) {
        let place = HostOffset(offset)
        do throws(ImageError) {
            guard let data = try nextData(from: place) else { return (true, length) }
            if data > place { return (true, min(length, data - place)) }
            guard let hole = try nextHole(from: place), hole > place else { return (false, length) }
            return (false, min(length, hole - place))
        } catch {
            return (false, length)
        }
    }
}
