// The ring can be full, rarely and for a moment. A transfer that found no room keeps its place in a
// line here instead of failing or spinning.
import LinuxIO

extension RequestEngine {
    /// Prepares what waited for room, oldest first, until there is none again.
    func sendBacklog() {
        for _ in 0..<backlog.count {
            let waiting = backlog.pop()
            let index = CompletionTag.index(waiting)
            let sent =
                switch waiting & CompletionTag.kinds {
                case CompletionTag.transfer: prepare(TransferIndex(raw: index))
                case CompletionTag.table: prepareTable(TableLoadIndex(raw: index))
                case CompletionTag.sync: prepareSync()
                case CompletionTag.wakeup: preparePoll()
                default: prepareLoad(ClusterLoadIndex(raw: index))
                }
            guard sent else { return backlog.push(waiting) }
        }
    }
}
