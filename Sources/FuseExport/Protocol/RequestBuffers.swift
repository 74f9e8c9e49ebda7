// The memory that requests are read into, before it is known whether they can be served. A request that cannot yet (no
// reply buffer is free) waits in its buffer, in order of arrival, and less is read meanwhile: that limits what a worker
// ever holds. A request that changes the disk keeps its buffer until that is done.
import Glibc
import LinuxIO
import SystemPackage

/// The buffers that requests are read into, and the queue of those that wait to be served.
///
/// A WRITE's data begins on a page (it goes to the image as it is), so the head in front of it ends the page before.
/// That costs a page a buffer.
///
/// All of it is in memory from the beginning. Should a process be killed while the kernel copies a request to it and a
/// page is missing, the kernel does not fetch the page but fails the request, and does not repeat it. For this reason
/// requests are kept short (`FuseLimits.maxWrite`).
@safe struct RequestBuffers: ~Copyable {
    private let memory: AlignedBuffer
    private let indices: UnsafeMutablePointer<UInt16>
    /// Buffers that can be read into: a stack of numbers.
    private(set) var free: Int
    /// The queue of requests that arrived: a ring of buffer numbers with lengths.
    private let line: UnsafeMutablePointer<(buffer: UInt16, length: Int32)>
    private var head = 0
    private(set) var waiting = 0
    /// Bytes of one buffer that can be read into.
    let size: Int
    let count: Int
    private let stride: Int
    private static let page = 4096

    init(count: Int, size: Int) throws(Errno) {
        stride = (Self.page - FuseLimits.writeHead + size + Self.page - 1) & ~(Self.page - 1)
        let memory = try AlignedBuffer(count: stride * count)
        // Writing zeros brings all pages into memory.
        unsafe memset(memory.pointer, 0, stride * count)
        unsafe indices = .allocate(capacity: count)
        unsafe line = .allocate(capacity: count)
        for i in 0..<count { unsafe indices[i] = UInt16(truncatingIfNeeded: count - 1 - i) }
        self.memory = memory
        self.size = size
        self.count = count
        free = count
    }

    deinit {
        unsafe indices.deallocate()
        unsafe line.deallocate()
    }

    @inline(__always) func bytes(_ buffer: Int) -> UnsafeMutableRawPointer {
        unsafe memory.pointer + buffer &* stride + (Self.page &- FuseLimits.writeHead)
    }

    /// A buffer to read into. There must be a free one.
    @inline(__always) mutating func take() -> Int {
        free &-= 1
        return unsafe Int(indices[free])
    }

    @inline(__always) mutating func give(_ buffer: Int) {
        unsafe indices[free] = UInt16(truncatingIfNeeded: buffer)
        free &+= 1
    }

    /// Adds the request of `length` bytes in `buffer` to the end of the queue.
    @inline(__always) mutating func enqueue(_ buffer: Int, length: Int32) {
        var tail = head &+ waiting
        if tail >= count { tail &-= count }
        unsafe line[tail] = (UInt16(truncatingIfNeeded: buffer), length)
        waiting &+= 1
    }
    /// The first request of the queue, which must not be empty.
    @inline(__always) var first: (buffer: Int, length: Int) { unsafe (Int(line[head].buffer), Int(line[head].length)) }

    /// The first request is served: its buffer is free.
    @inline(__always) mutating func dequeue() {
        unsafe give(Int(line[head].buffer))
        dequeueKeeping()
    }

    /// The first request is in flight and keeps its buffer until `give`.
    @inline(__always) mutating func dequeueKeeping() {
        head &+= 1
        if head == count { head = 0 }
        waiting &-= 1
    }
}
