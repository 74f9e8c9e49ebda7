// The one way for other threads to talk to a worker. The worker's ring polls `fd`; the lock is held for an append or
// a swap, never on the request path.
import Synchronization
public import SystemPackage

/// Messages to one thread, in order, from any thread.
public final class Mailbox<Message: Sendable>: Sendable {
    private let waiting = Mutex<[Message]>([])
    private let event: EventFD

    /// An empty mailbox. Throws where no descriptor can be had.
    public init() throws(Errno) { event = try EventFD() }

    /// Readable while messages wait.
    public var fd: Int32 { event.raw }

    /// Waits until messages wait, or so many milliseconds.
    public func wait(milliseconds: Int32) throws(Errno) { _ = try event.wait(milliseconds: milliseconds) }

    /// Adds a message and makes `fd` readable. Never waits for the receiver.
    public func post(_ message: Message) {
        waiting.withLock { $0.append(message) }
        event.signal()
    }

    /// All messages that wait, oldest first.
    public func take() -> [Message] {
        // Reset before looking: a message posted in between wakes us once more, none is missed.
        event.take()
        return waiting.withLock { messages in
            let taken = messages
            messages = []
            return taken
        }
    }
}
