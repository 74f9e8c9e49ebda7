// A flush promises that everything answered before it is on the medium. Any number of them that come while one fdatasync
// runs wait for the next, which serves them all: the running one may have begun too early.

/// Flushes on their way and in line.
struct FlushQueue: BitwiseCopyable {
    private var isRunning = false
    /// Answered when the running fdatasync is done.
    private var covered = IndexQueue<Request>()
    /// Came while it ran.
    private var next = IndexQueue<Request>()

    init() {}

    /// Takes in a flush. True: an fdatasync must start for it.
    mutating func add(_ request: RequestIndex, in requests: borrowing RecordTable<Request>) -> Bool {
        if isRunning {
            next.push(request, in: requests)
            return false
        }
        covered.push(request, in: requests)
        isRunning = true
        return true
    }

    /// The fdatasync is over: the flushes that it answers, and whether another must start for those that came meanwhile.
    mutating func complete() -> (answered: IndexQueue<Request>, startsNext: Bool) {
        let answered = covered.takeAll()
        covered = next.takeAll()
        isRunning = !covered.isEmpty
        return (answered, isRunning)
    }
}
