// A raw file or block device, driven with as little as possible between it and the loop. A server on top of the same
// file is compared with this.
import DiskTypes
import Glibc
import LinuxIO
import SystemPackage

/// A raw file or block device, by io_uring; with registered files and buffers, where the kernel has room for them.
@safe struct FileQueue: BenchQueue {
    private let ring: Ring
    private let file: HostFile
    private let fd: Int32
    private let flags: UInt8
    private let blockBytes: Int
    private let buffers: BenchBuffers
    private let memory: UnsafeMutableRawPointer
    private let isRegistered: Bool
    private var done: CompletionQueue
    private static let flushTag = UInt64(1) << 40

    init(_ file: HostFile, direct: Bool, depth: Int, blockBytes: Int) throws(ImageError) {
        let raw = direct ? file.directFD : file.fd
        let ring = try newRing(max(depth, 8))
        buffers = try BenchBuffers(count: depth, blockBytes: blockBytes)
        unsafe memory = unsafe buffers.pointer
        let hasFile = Self.succeeds { () throws(Errno) in try ring.registerFiles([raw]) }
        let bytes = unsafe buffers.bytes
        isRegistered = Self.succeeds { () throws(Errno) in try unsafe ring.registerBuffers([bytes]) }
        fd = hasFile ? 0 : raw
        flags = hasFile ? Ring.Flag.fixedFile : 0
        self.ring = ring
        self.file = file
        self.blockBytes = blockBytes
        done = CompletionQueue(capacity: depth)
    }

    /// Whether the kernel took a registration; it may refuse both, and the queue works without.
    private static func succeeds(_ body: () throws(Errno) -> Void) -> Bool {
        do throws(Errno) {
            try body()
            return true
        } catch {
            return false
        }
    }

    func buffer(_ slot: Int) -> UnsafeMutableRawPointer { unsafe memory + slot * blockBytes }
    func free() { done.free() }

    mutating func submit(_ slot: Int, isWrite: Bool, offset: UInt64) {
        let memory = unsafe buffer(slot)
        let count = UInt32(blockBytes)
        let tag = UInt64(slot)
        let isPrepared =
            switch (isWrite, isRegistered) {
            case (false, true):
                unsafe ring.prepareReadFixed(
                    fd: fd, buffer: memory, count: count, offset: offset, index: 0, userData: tag, flags: flags)
            case (false, false):
                unsafe ring.prepareRead(
                    fd: fd, buffer: memory, count: count, offset: offset, userData: tag, flags: flags)
            case (true, true):
                unsafe ring.prepareWriteFixed(
                    fd: fd, buffer: memory, count: count, offset: offset, index: 0, userData: tag, flags: flags)
            case (true, false):
                unsafe ring.prepareWrite(
                    fd: fd, buffer: memory, count: count, offset: offset, userData: tag, flags: flags)
            }
        // The ring has an entry for each slot, so this happens only when the kernel is out of memory.
        if !isPrepared {
            lastError = ENOMEM
            done.push(BenchCompletion(slot: slot, isOK: false))
        }
    }

    mutating func submitFlush(_ slot: Int) -> Bool {
        ring.prepareFsync(fd: fd, dataOnly: true, userData: UInt64(slot) | Self.flushTag, flags: flags)
    }

    /// Sends nothing: `wait` submits what is prepared, in the same call.
    mutating func publish() {}

    mutating func next() -> BenchCompletion { done.pop() }

    mutating func wait(inFlight: Int, wanted: Int) {
        let result = ring.submitAndWait(1)
        let whole = Int32(blockBytes)
        let drained = ring.drain { tag, result in
            let isOK = tag & Self.flushTag != 0 ? result == 0 : result == whole
            if !isOK { lastError = result < 0 ? 0 &- result : EIO }
            done.push(BenchCompletion(slot: Int(tag & ~Self.flushTag), isOK: isOK))
        }
        if result < 0, drained == 0 { sched_yield() }
    }

    private(set) var lastError: Int32 = 0
    var breakage: String? { nil }
}

struct FileQueueMaker: BenchQueueMaker {
    let file: HostFile
    let direct: Bool
    let depth: Int
    let blockBytes: Int
    func make() throws(ImageError) -> FileQueue {
        try FileQueue(file, direct: direct, depth: depth, blockBytes: blockBytes)
    }
}

/// Completions between the ring and the loop, at most one for each slot. `free` frees it.
@safe struct CompletionQueue: BitwiseCopyable {
    private let items: UnsafeMutablePointer<BenchCompletion>
    private let capacity: Int
    private var first = 0
    private var count = 0

    init(capacity: Int) {
        self.capacity = capacity
        unsafe items = .allocate(capacity: capacity)
        unsafe items.initialize(repeating: .none, count: capacity)
    }
    func free() { unsafe items.deallocate() }

    @inline(__always) mutating func push(_ item: BenchCompletion) {
        var at = first &+ count
        if at >= capacity { at &-= capacity }
        unsafe items[at] = item
        count &+= 1
    }
    @inline(__always) mutating func pop() -> BenchCompletion {
        guard count > 0 else { return .none }
        let item = unsafe items[first]
        first = first &+ 1 == capacity ? 0 : first &+ 1
        count &-= 1
        return item
    }
}
