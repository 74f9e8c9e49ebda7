// Flushes that wait for a write-back, and what became of them. They are numbered, so that one write-back answers all that
// were asked for before it began, and a worker looks its answer up without a list of its own.

import Glibc
import Synchronization

/// The flushes of one image by their numbers, for any number of threads.
struct FlushTickets: ~Copyable, Sendable {
    /// Not private: the compiler (6.3) fails on a private type in a `Mutex` of a noncopyable struct.
    struct State {
        var wanted: UInt64 = 0
        var done: UInt64 = 0
        /// The tickets that failed, and their errno.
        var failures: [(tickets: ClosedRange<UInt64>, error: Int32)] = []

        mutating func end(_ target: UInt64, _ error: Int32) {
            defer { done = target }
            guard error != 0, target > done else { return }
            // One entry for failures in a row: they may go on for ever.
            if let last = failures.last, last.error == error, last.tickets.upperBound == done {
                failures[failures.count - 1].tickets = last.tickets.lowerBound...target
            } else {
                failures.append((done + 1...target, error))
            }
        }
    }
    private let state = Mutex<State>(State())
    /// Changes of a killed process are lost: the guest must not be told that they are safe, so its next flush fails.
    private let owesError = Atomic<Bool>(false)

    /// A new flush's ticket.
    func request() -> UInt64 {
        state.withLock { state in
            state.wanted += 1
            return state.wanted
        }
    }

    /// 0 or an errno; nil while the flush has not ended.
    func result(of ticket: UInt64) -> Int32? {
        state.withLock { state in
            guard state.done >= ticket else { return nil }
            return state.failures.first { $0.tickets.contains(ticket) }?.error ?? 0
        }
    }

    /// The newest flush that waits; nil when none does.
    var pending: UInt64? { state.withLock { $0.wanted > $0.done ? $0.wanted : nil } }

    /// Ends all flushes up to `target` with `error` (0: everything is on the disk).
    func end(_ target: UInt64, _ error: Int32) {
        let result = owesError.exchange(false, ordering: .relaxed) ? EIO : error
        state.withLock { $0.end(target, result) }
    }

    /// The next flush gets EIO, whatever comes of it.
    func failNext() { owesError.store(true, ordering: .relaxed) }
    /// Whether the next flush fails for that reason.
    var failsNext: Bool { owesError.load(ordering: .relaxed) }
}
