// A guest's memory is a file, too. Where the kernel is to copy out of it, the engine must know which, and
// from where on.

/// A range of the callers' memory that is a mapped file in memory.
public struct GuestMemoryFile: BitwiseCopyable, Sendable {
    let start: UInt
    let count: Int
    let fd: Int32
    let offset: UInt64

    /// `count` bytes at `start` are the file's from `offset` on.
    public init(start: UnsafeRawPointer, count: Int, fd: Int32, offset: UInt64) {
        self.start = UInt(bitPattern: start)
        self.count = count
        self.fd = fd
        self.offset = offset
    }
}

/// All files that the callers' memory consists of.
@safe struct GuestMemoryFiles: BitwiseCopyable {
    private var files: UnsafeMutablePointer<GuestMemoryFile>?
    private var count = 0
    /// Where the last one was found: nearly always where the next one is.
    private var last = 0

    init() {}

    mutating func replace(_ next: [GuestMemoryFile]) {
        free()
        count = next.count
        guard count > 0 else { return }
        let copy = UnsafeMutablePointer<GuestMemoryFile>.allocate(capacity: count)
        for (i, file) in next.enumerated() { unsafe (copy + i).initialize(to: file) }
        unsafe files = unsafe copy
    }

    mutating func free() {
        unsafe files?.deallocate()
        unsafe files = nil
        count = 0
        last = 0
    }

    /// The file that has the `length` bytes at `memory`, and where; nil when none has them all.
    @inline(__always) mutating func find(_ memory: UnsafeRawPointer, _ length: Int) -> (fd: Int32, offset: UInt64)? {
        guard let files = unsafe files else { return nil }
        for _ in 0..<count {
            let at = unsafe UInt(bitPattern: memory) &- files[last].start
            if unsafe at < UInt(bitPattern: files[last].count),
                unsafe length <= files[last].count &- Int(bitPattern: at)
            {
                return unsafe (files[last].fd, files[last].offset &+ UInt64(at))
            }
            last = last &+ 1 < count ? last &+ 1 : 0
        }
        return nil
    }
}
