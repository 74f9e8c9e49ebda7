// What the loop of the benchmark drives: a virtqueue, a file, or the engine, by one protocol. Its methods run once for
// each request or batch: no locks, no allocation, and the compiler sees the concrete type.
import BlockEngine
import DiskTypes
import LinuxIO
import SystemPackage

/// One thread's access to one disk, with a buffer for each slot.
protocol BenchQueue {
    /// The slot's buffer, of one block.
    func buffer(_ slot: Int) -> UnsafeMutableRawPointer
    /// Prepares a request on a free slot. Nothing need be sent before `publish`.
    mutating func submit(_ slot: Int, isWrite: Bool, offset: UInt64)
    /// Sends what is prepared.
    mutating func publish()
    /// The next request that is done, or `.none`.
    mutating func next() -> BenchCompletion
    /// Called when `next` has nothing: waits until about `wanted` requests are done, or a moment has passed.
    mutating func wait(inFlight: Int, wanted: Int)
    /// Prepares a flush on a free slot. False: the disk has none.
    mutating func submitFlush(_ slot: Int) -> Bool
    /// Frees its memory; nothing may be in flight, and no method be called afterwards.
    func free()
    /// What the other side did wrong, when the run cannot go on; a phrase.
    var breakage: String? { get }
    /// The errno of the last request that failed.
    var lastError: Int32 { get }
}

/// A request that is done: its slot, and whether it succeeded; or nothing.
struct BenchCompletion: BitwiseCopyable {
    private let word: Int64

    @inline(__always) init(slot: Int, isOK: Bool) { word = Int64(slot) | (isOK ? 0 : 1 << 32) }
    private init(word: Int64) { self.word = word }
    static let none = BenchCompletion(word: -1)

    @inline(__always) var isNone: Bool { word < 0 }
    @inline(__always) var slot: Int { Int(word & 0xffff_ffff) }
    @inline(__always) var isOK: Bool { word >> 32 == 0 }
}

/// Page-aligned buffers, one for each slot, full of bytes that do not compress.
final class BenchBuffers {
    private let memory: SharedMemory
    var bytes: UnsafeMutableRawBufferPointer {
        unsafe UnsafeMutableRawBufferPointer(start: memory.pointer, count: memory.count)
    }
    var pointer: UnsafeMutableRawPointer { unsafe memory.pointer }
    var file: GuestMemoryFile {
        unsafe GuestMemoryFile(start: memory.pointer, count: memory.count, fd: memory.fd, offset: 0)
    }

    init(count: Int, blockBytes: Int) throws(ImageError) {
        do throws(Errno) {
            memory = try SharedMemory("qblk-bench", count: count * blockBytes)
        } catch {
            throw ImageError(.system, "no memory for \(count) buffers: \(errorText(error.rawValue))")
        }
        unsafe fillWithNoise(memory.pointer, count * blockBytes)
    }
}

/// Fills memory with bytes that do not compress. This also makes the pages present: their first touch is not measured.
func fillWithNoise(_ memory: UnsafeMutableRawPointer, _ bytes: Int) {
    var word: UInt64 = 0x9e37_79b9_7f4a_7c15
    for byte in stride(from: 0, to: bytes, by: 8) {
        word = (word ^ word >> 27) &* 0x94d0_49bb_1331_11eb &+ 1
        unsafe memory.storeBytes(of: word, toByteOffset: byte, as: UInt64.self)
    }
}

/// A ring for `entries` requests. Throws why there is none.
func newRing(_ entries: Int) throws(ImageError) -> Ring {
    try Ring.make(entries: UInt32(clamping: entries))
}

/// What is driven: the maker of its queue.
enum BenchTransport: Sendable {
    case socket(VhostQueueMaker)
    case file(FileQueueMaker)
    case image(ImageQueueMaker)
}

/// Makes a queue, on the thread that is going to use it: a ring belongs to the thread that made it.
protocol BenchQueueMaker: Sendable {
    associatedtype Queue: BenchQueue
    func make() throws(ImageError) -> Queue
}
