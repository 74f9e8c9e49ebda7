// Why this file exists: requests are read ahead of knowing whether they can be served. Those that cannot yet (no reply
// buffer is free) wait in the very buffer they were read into, in order; while they do, less is read. That bounds
// everything a worker ever holds. Those that change the disk keep their buffer until that is done.
import Glibc
import LinuxIO
import SystemPackage

/// The buffers that requests are read into, and the line of those that wait to be served.
///
/// A WRITE's data begins on a page (it goes to the image as it is), so the head in front of it ends the page before. That
/// costs a page a buffer; of the rest, memory is used as far as requests have been long.
///
/// What the kernel may write to must be there before: should a process be killed while the kernel copies a request to it
/// and a page is missing, the kernel does not fetch the page but fails the request, and nobody repeats it.
struct RequestBuffers: ~Copyable {
    private let memory: AlignedBuffer
    private let indices: UnsafeMutablePointer<UInt16>
    /// Buffers that can be read into: a stack of numbers.
    private(set) var free: Int
    /// The line of requests that arrived: a ring of numbers with lengths.
    private let line: UnsafeMutablePointer<(buffer: UInt16, length: Int32)>
    private var head = 0
    private(set) var waiting = 0
    /// Bytes of one buffer that can be read into.
    let size: Int
    let count: Int
    private let stride: Int
    private static let page = 4096
    /// Bytes of each buffer whose memory is there, and how much there should be.
    private let populated: UnsafeMutablePointer<Int>
    private var wanted: Int
    /// Longer requests are rare; once they are not, all buffers are made ready for them.
    private static let ordinary = FuseLimits.writeHead + (128 << 10)

    init(count: Int, size: Int) throws(Errno) {
        stride = (Self.page - FuseLimits.writeHead + size + Self.page - 1) & ~(Self.page - 1)
        let memory = try AlignedBuffer(count: stride * count)
        // Most requests are short: a huge page each would be most of the memory for nothing.
        madvise(memory.pointer, stride * count, MADV_NOHUGEPAGE)
        indices = .allocate(capacity: count)
        line = .allocate(capacity: count)
        for i in 0..<count { indices[i] = UInt16(truncatingIfNeeded: count - 1 - i) }
        self.memory = memory
        self.size = size
        self.count = count
        free = count
        populated = .allocate(capacity: count)
        populated.initialize(repeating: 0, count: count)
        wanted = min(size, Self.ordinary)
    }

    deinit {
        populated.deallocate()
        indices.deallocate()
        line.deallocate()
    }

    @inline(__always) func bytes(_ buffer: Int) -> UnsafeMutableRawPointer {
        memory.pointer + buffer &* stride + (Self.page &- FuseLimits.writeHead)
    }

    /// A buffer to read into. There must be a free one.
    @inline(__always) mutating func take() -> Int {
        free &-= 1
        let buffer = Int(indices[free])
        if populated[buffer] < wanted { populate(buffer) }
        return buffer
    }

    /// Once or twice in a buffer's life.
    @inline(never) private func populate(_ buffer: Int) {
        let head = Self.page &- FuseLimits.writeHead
        // Kernels before 5.14 do not know it, and have the page brought when it is used.
        madvise(bytes(buffer) - head, head &+ wanted, Self.populateForWriting)
        populated[buffer] = wanted
    }
    /// MADV_POPULATE_WRITE
    private static let populateForWriting: Int32 = 23

    @inline(__always) mutating func give(_ buffer: Int) {
        indices[free] = UInt16(truncatingIfNeeded: buffer)
        free &+= 1
    }

    /// A request of `length` bytes is in `buffer`: to the end of the line.
    @inline(__always) mutating func enqueue(_ buffer: Int, length: Int32) {
        var tail = head &+ waiting
        if tail >= count { tail &-= count }
        line[tail] = (UInt16(truncatingIfNeeded: buffer), length)
        if Int(length) > wanted { wanted = size }
        waiting &+= 1
    }
    /// The first in line. There must be one.
    @inline(__always) var first: (buffer: Int, length: Int) { (Int(line[head].buffer), Int(line[head].length)) }

    /// The first in line is served: its buffer is free.
    @inline(__always) mutating func dequeue() {
        give(Int(line[head].buffer))
        dequeueKeeping()
    }

    /// The first in line is under way and keeps its buffer until somebody gives it back.
    @inline(__always) mutating func dequeueKeeping() {
        head &+= 1
        if head == count { head = 0 }
        waiting &-= 1
    }
}
