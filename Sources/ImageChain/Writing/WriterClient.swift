// What one worker and an image's helper thread share: an eventfd that wakes the worker, and how many of the worker's
// requests are in flight, so that no cluster is given to another write while an old request may still touch it.

public import LinuxIO
public import Synchronization

/// One worker's part of an `ImageWriter`, from `addClient` to `leave`.
@safe public final class WriterClient: Sendable {
    /// The worker's number, which no other client of the image has at the same time.
    public let number: Int
    /// Signalled when something has changed, while the worker `waits`.
    public let wakeup: EventFD
    /// Whether the worker waits for a change (`ImageWriter.startWaiting`).
    public let waits = Atomic<Bool>(false)
    nonisolated(unsafe) let counts: UnsafeMutablePointer<Atomic<Int>>

    init(_ number: Int, _ wakeup: consuming EventFD) {
        self.number = number
        self.wakeup = wakeup
        unsafe counts = .allocate(capacity: 2)
        for i in 0..<2 { unsafe (counts + i).initialize(to: Atomic(0)) }
    }
    deinit { unsafe counts.deallocate() }

    /// Requests in flight that began in an epoch of `parity`.
    func count(_ parity: Int) -> Int { unsafe counts[parity].load(ordering: .acquiring) }
}
