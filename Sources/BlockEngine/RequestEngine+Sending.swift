// Why this file exists: the ring can be full, rarely and for a moment. A transfer that found no room keeps its place in a
// line here instead of failing or spinning.
import LinuxIO

extension RequestEngine {
    /// Prepares what waited for room, oldest first, until there is none again.
    func sendDeferred() {
        for _ in 0..<deferred.count {
            let waiting = deferred.pop()
            let index = Tag.index(waiting)
            let sent =
                switch waiting & Tag.kinds {
                case Tag.piece: prepare(index)
                case Tag.table: prepareTable(index)
                case Tag.sync: prepareSync()
                case Tag.bell: prepareBell()
                default: prepareLoad(index)
                }
            guard sent else { return deferred.push(waiting) }
        }
    }
}
