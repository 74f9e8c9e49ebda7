// Why this file exists: the ring can be full, rarely and for a moment. A read that found no room keeps its place in a
// line here instead of failing or spinning.
import LinuxIO

extension RequestEngine {
    /// Prepares the reads that waited for room, oldest first, until there is none again.
    func sendDeferred() {
        for _ in 0..<deferred.count {
            let tag = deferred.pop()
            let index = Tag.index(tag)
            let sent =
                switch tag & Tag.kinds {
                case Tag.piece: prepare(index)
                case Tag.table: prepareTable(index)
                default: prepareLoad(index)
                }
            guard sent else { return deferred.push(tag) }
        }
    }
}
