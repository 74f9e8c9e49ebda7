// The workers that change one image, and which of them wait for it. The helper thread wakes those that wait and no others,
// so that a change costs a worker that does not wait nothing.

import LinuxIO
import Synchronization
import SystemPackage

/// The clients of one `ImageWriter`, for any number of threads.
struct WriterClients: ~Copyable, Sendable {
    private let list = Mutex<[WriterClient]>([])
    private let made = Atomic<Int>(0)
    /// The number of clients that wait. A client counts before `startWaiting` returns and until it has stopped, so that no
    /// wake-up is lost; the number may be too high for a moment.
    private let waiting = Atomic<Int>(0)

    /// A client with a number that none had before. It takes part from `add` on.
    func make() throws(Errno) -> WriterClient {
        WriterClient(made.add(1, ordering: .relaxed).newValue, try EventFD())
    }

    func add(_ client: WriterClient) { list.withLock { $0.append(client) } }

    func remove(_ client: WriterClient) { list.withLock { $0.removeAll { $0 === client } } }

    /// `notifyWaiters` wakes the client from here on.
    func startWaiting(_ client: WriterClient) {
        guard !client.waits.exchange(true, ordering: .sequentiallyConsistent) else { return }
        waiting.add(1, ordering: .sequentiallyConsistent)
    }

    func stopWaiting(_ client: WriterClient) {
        guard client.waits.exchange(false, ordering: .sequentiallyConsistent) else { return }
        waiting.subtract(1, ordering: .sequentiallyConsistent)
    }

    /// Wakes the clients that wait, except the caller's own.
    func notifyWaiters(except own: WriterClient? = nil) {
        guard waiting.load(ordering: .sequentiallyConsistent) > 0 else { return }
        list.withLock { clients in
            for client in clients where client !== own && client.waits.load(ordering: .sequentiallyConsistent) {
                client.wakeup.signal()
            }
        }
    }

    // MARK: requests in flight

    /// Begins the next epoch: requests from here on count apart from those before. Gives the parity of those before.
    func beginEpoch(_ epoch: borrowing RequestEpoch) -> Int {
        // No client comes or goes meanwhile.
        list.withLock { _ in epoch.advance() }
    }

    /// Whether no request of the epochs of `parity` is in flight any more.
    func haveFinished(_ parity: Int) -> Bool { list.withLock { $0.allSatisfy { $0.count(parity) == 0 } } }
}
