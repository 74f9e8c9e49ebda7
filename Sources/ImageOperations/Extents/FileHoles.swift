// Why this file exists: raw images have no tables; what is allocated in them only the host's file system knows.

import DiskTypes
import LinuxIO

extension HostFile {
    /// Whether the bytes at `offset` lie in a hole (or past the end), and how far that holds. A file system that
    /// cannot say has no holes.
    func holeStatus(at offset: UInt64, length: UInt64) -> (isHole: Bool, length: UInt64) {
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
