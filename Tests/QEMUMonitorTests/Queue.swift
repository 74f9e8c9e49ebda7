// Answers that are given one after the other, to a fake that runs on another thread.

import Synchronization

final class Queue: Sendable {
    private let rest: Mutex<[String]>
    init(_ items: [String]) { rest = Mutex(items) }
    func next() -> String? { rest.withLock { $0.isEmpty ? nil : $0.removeFirst() } }
}
