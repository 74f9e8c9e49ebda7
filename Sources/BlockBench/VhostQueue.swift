// A queue of a vhost-user back-end, as the benchmark's loop drives it. The eventfds of kick and call are raw
// descriptors here, so that the loop counts no references.
import Glibc
import LinuxIO
import VhostUserFrontend
import Virtqueue

/// One virtqueue. The front-end must live longer.
struct VhostQueue: BenchQueue {
    private var ring: SlotRing
    private let kick: Int32
    private let call: Int32
    private let sleeps: Bool
    private let hasFlush: Bool

    init(_ ring: SlotRing, _ queue: FrontendQueue, sleeps: Bool, hasFlush: Bool) {
        self.ring = ring
        kick = queue.kick.raw
        call = queue.call.raw
        self.sleeps = sleeps
        self.hasFlush = hasFlush
    }

    @inline(__always) func buffer(_ slot: Int) -> UnsafeMutableRawPointer { unsafe ring.buffer(slot) }

    @inline(__always) mutating func submit(_ slot: Int, isWrite: Bool, offset: UInt64) {
        ring.submit(slot, isWrite: isWrite, sector: offset >> VirtioBlk.sectorBits)
    }

    @inline(__always) mutating func publish() {
        if ring.publish() { signal() }
    }

    private func signal() {
        var one: UInt64 = 1
        while unsafe write(kick, &one, 8) < 0 && errno == EINTR {}
    }

    @inline(__always) mutating func next() -> BenchCompletion { ring.next() }

    mutating func wait(inFlight: Int, wanted: Int) {
        if sleeps { sleep(inFlight) } else { look(min(wanted, inFlight)) }
    }

    /// Polls until `wanted` requests are done; fewer are enough when no other follows for a while. Each look takes the
    /// cache line away from the processor that writes it, so there are pauses between looks.
    private func look(_ wanted: Int) {
        var idle = 0
        var done = 0
        while idle < 64 {
            for _ in 0..<8 { cpuRelax() }
            if ring.isReady(wanted) { return }
            if done < wanted, ring.isReady(done + 1) {
                done += 1
                idle = 0
            } else {
                idle += 1
            }
        }
        // Nothing is done: the server may be waiting for this processor.
        if done == 0 { sched_yield() }
    }

    /// Sleeps until half of what is in flight is done, or a second has passed.
    private func sleep(_ inFlight: Int) {
        if !ring.enableSignals(after: max(inFlight / 2, 1)) {
            var entry = pollfd(fd: call, events: Int16(POLLIN), revents: 0)
            _ = unsafe poll(&entry, 1, 1000)
        }
        var count: UInt64 = 0
        _ = unsafe read(call, &count, 8)
        ring.disableSignals()
    }

    mutating func submitFlush(_ slot: Int) -> Bool {
        if hasFlush { ring.submitFlush(slot) }
        return hasFlush
    }

    func free() {}
    /// Status 2 is UNSUPP; 0xff says that the device wrote no status.
    var lastError: Int32 { ring.lastStatus == 2 ? EOPNOTSUPP : EIO }
    var breakage: String? { ring.isBroken ? "the back-end answered a request that was not made" : nil }
}

struct VhostQueueMaker: BenchQueueMaker {
    /// The memory and descriptors that it names belong to the front-end.
    let queue: VhostQueue
    func make() -> VhostQueue { queue }
}

/// Given to one thread, which alone uses it from then on.
extension VhostQueue: @unchecked Sendable {}
