// The one door to io_uring. A ring belongs to the thread that made it; nothing here locks, allocates or throws after
// `init`. Preparing fills an entry; results come back through `drain`.
public import CQblk
public import Glibc
public import SystemPackage

/// An io_uring, confined to the thread that created it (the kernel refuses submissions from any other).
@safe public final class Ring {
    /// Where the memory shared with the kernel is. Never changes after `init`.
    @usableFromInline let ring: UnsafeMutablePointer<qb_ring>
    /// The mode that the kernel granted.
    public let mode: Mode

    var registeredFiles: RegisteredFiles?

    /// How the kernel tells of completions: the setup flags that it takes.
    public enum Mode: Int32, Sendable, CaseIterable {
        /// Completions are worked off only when this thread asks (kernel 6.1). Best.
        case deferred = 0
        /// Completions never interrupt this thread (kernel 5.19).
        case cooperative = 1
        /// What every kernel has.
        case plain = 2
    }

    /// A ring for up to `entries` requests prepared between two submissions, and four times as many in flight
    /// without the kernel having to set completions aside. Takes the best mode from `best` on that the kernel knows.
    public init(entries: UInt32, best: Mode = .deferred) throws(Errno) {
        let place = UnsafeMutablePointer<qb_ring>.allocate(capacity: 1)
        unsafe place.initialize(to: qb_ring())
        var granted = best
        var result = -EINVAL
        for mode in Mode.allCases where mode.rawValue >= best.rawValue {
            result = unsafe qb_ring_open(place, max(entries, 1), max(entries, 1) &* 4, mode.rawValue)
            granted = mode
            if result != -EINVAL { break }
        }
        if result != 0 {
            unsafe place.deallocate()
            throw Errno(rawValue: 0 &- result)
        }
        unsafe ring = unsafe place
        mode = granted
    }

    deinit {
        unsafe qb_ring_close(ring)
        unsafe ring.deallocate()
    }

    /// The offset that means "wherever the file stands": for character devices, which have no offsets.
    public static let currentPosition = UInt64.max

    // MARK: submitting

    /// Hands what was prepared to the kernel: how many entries it took, or a negative errno.
    @inlinable @discardableResult public func submit() -> Int32 {
        while true {
            let result = unsafe qb_ring_submit(ring)
            if result != -EINTR { return result }
        }
    }

    /// Submits and sleeps until at least `n` completions are there; with 0 it only works off what is ready.
    /// A signal ends the sleep early without being an error: the result is then 0.
    @inlinable @discardableResult public func submitAndWait(_ n: UInt32) -> Int32 {
        let result = unsafe qb_ring_submit_and_wait(ring, n)
        return result == -EINTR ? 0 : result
    }

    /// A free entry. With the queue full, what is prepared is submitted first; nil when even that gave no room
    /// (the kernel is out of memory, or wants completions taken first): drain, then try again.
    @inlinable @inline(__always) func entry() -> UnsafeMutablePointer<qb_sqe>? {
        if let entry = unsafe qb_ring_entry(ring) { return unsafe entry }
        submit()
        return unsafe qb_ring_entry(ring)
    }

    /// Something was prepared and not submitted yet.
    @inlinable public var hasPrepared: Bool { unsafe qb_ring_prepared(ring) > 0 }

    // MARK: completions

    /// How many completions can be drained without asking the kernel.
    @inlinable public var completionsReady: Int {
        unsafe Int(qb_load_acquire(ring.pointee.cq_tail) &- ring.pointee.cq_head.pointee)
    }

    /// The kernel holds finished work back until it is asked (`submitAndWait`), or ran out of completion entries.
    @inlinable public var hasDeferredWork: Bool {
        unsafe qb_load_relaxed(ring.pointee.sq_flags) & (QB_SQ_TASKRUN | QB_SQ_CQ_OVERFLOW) != 0
    }

    /// Calls `body` with each completion that is there and forgets it; how many it were. `body` may prepare and
    /// submit; it must not drain.
    @inlinable @inline(__always) @discardableResult
    public func drain(_ body: (_ userData: UInt64, _ result: Int32) -> Void) -> Int {
        let shared = unsafe ring.pointee
        var total = 0
        while true {
            var head = unsafe shared.cq_head.pointee
            let tail = unsafe qb_load_acquire(shared.cq_tail)
            let count = tail &- head
            while head != tail {
                let completion = unsafe shared.cqes + Int(head & shared.cq_mask)
                unsafe body(completion.pointee.user_data, completion.pointee.result)
                head = head &+ 1
            }
            unsafe qb_store_release(shared.cq_head, tail)
            total &+= Int(count)
            // Completions that found no room wait in the kernel; now there is room. Nothing is ever lost.
            guard unsafe qb_load_relaxed(shared.sq_flags) & QB_SQ_CQ_OVERFLOW != 0 else { return total }
            let result = unsafe qb_ring_get_events(ring)
            if result < 0 && result != -EINTR { return total }
        }
    }
}

/// To be called in loops that wait for another processor: leaves it more of the core.
@inlinable @inline(__always) public func cpuRelax() { qb_relax() }
