// An image, driven by qblk's own engine in this process. Where a back-end is slower than this, the time is spent
// between guest and engine.
import BlockEngine
import DiskTypes
import Glibc
import ImageChain
import LinuxIO

/// An image and its backing chain, by the engine that serves them to guests.
@safe struct ImageQueue: BenchQueue {
    private let ring: Ring
    private let engine: RequestEngine
    private let blockBytes: Int
    private let buffers: BenchBuffers
    private let memory: UnsafeMutableRawPointer
    private let lists: UnsafeMutablePointer<iovec>

    init(_ chain: ImageChain, depth: Int, blockBytes: Int) throws(ImageError) {
        ring = try newRing(max(depth * 2, 8))
        buffers = try BenchBuffers(count: depth, blockBytes: blockBytes)
        unsafe memory = unsafe buffers.pointer
        // With a copy helper, and with the buffers as a shared file, as a back-end has them.
        let helper = CopyHelper(maxIovecs: 1, looks: 32_768)
        engine = try RequestEngine(chain: chain, ring: ring, slots: depth, seesPages: true, helper: helper)
        engine.setGuestMemoryFiles([buffers.file])
        unsafe lists = .allocate(capacity: depth)
        for slot in 0..<depth {
            unsafe (lists + slot).initialize(to: iovec(iov_base: memory + slot * blockBytes, iov_len: blockBytes))
        }
        self.blockBytes = blockBytes
    }

    func buffer(_ slot: Int) -> UnsafeMutableRawPointer { unsafe memory + slot * blockBytes }
    func free() { unsafe lists.deallocate() }

    mutating func submit(_ slot: Int, isWrite: Bool, offset: UInt64) {
        unsafe engine.submit(
            BlockRequest(
                isWrite ? .write : .read, slot: UInt32(slot), guest: GuestOffset(offset),
                length: UInt64(blockBytes), iovecs: lists + slot, iovecCount: 1))
    }

    mutating func submitFlush(_ slot: Int) -> Bool {
        unsafe engine.submit(BlockRequest(.flush, slot: UInt32(slot)))
        return true
    }

    /// What is prepared leaves with the next wait: one call for both.
    mutating func publish() { engine.submit() }

    mutating func next() -> BenchCompletion {
        guard let finished = engine.nextFinished() else { return .none }
        if finished.error != 0 { lastError = finished.error }
        return BenchCompletion(slot: Int(finished.slot), isOK: finished.error == 0)
    }

    mutating func wait(inFlight: Int, wanted: Int) {
        let result = ring.submitAndWait(1)
        let engine = engine
        let drained = ring.drain { tag, result in
            if RequestEngine.owns(tag) { engine.complete(tag, result) }
        }
        engine.submit()
        if result < 0, drained == 0 { sched_yield() }
    }

    private(set) var lastError: Int32 = 0
    var breakage: String? { nil }
}

struct ImageQueueMaker: BenchQueueMaker {
    let chain: ImageChain
    let depth: Int
    let blockBytes: Int
    func make() throws(ImageError) -> ImageQueue { try ImageQueue(chain, depth: depth, blockBytes: blockBytes) }
}
