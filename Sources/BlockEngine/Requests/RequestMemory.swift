// A request's memory is one range or a list of ranges; what fills it need not know which. Offsets here
// count bytes of the request.
import Glibc

/// The caller's memory of one request.
@safe struct RequestMemory {
    /// One range, or nil for `iovecs`.
    let base: UnsafeMutableRawPointer?
    let iovecs: UnsafeMutablePointer<iovec>?
    let count: Int

    @inline(__always) init(base: UnsafeMutableRawPointer?, iovecs: UnsafeMutablePointer<iovec>?, count: Int) {
        unsafe self.base = unsafe base
        unsafe self.iovecs = unsafe iovecs
        self.count = count
    }

    /// Memory that is one range.
    @inline(__always) init(base: UnsafeMutableRawPointer) { unsafe self.init(base: base, iovecs: nil, count: 0) }

    /// Calls `body` with each contiguous part of the `length` bytes at `at`, and how many bytes came before it.
    @inline(__always) func parts(
        at: Int, length: Int, _ body: (_ memory: UnsafeMutableRawPointer, _ length: Int, _ before: Int) -> Void
    ) {
        if let base = unsafe base { return unsafe body(base + at, length, 0) }
        guard let iovecs = unsafe iovecs else { return }
        var skip = at
        var done = 0
        for i in 0..<count {
            guard done < length else { return }
            let size = unsafe iovecs[i].iov_len
            if skip >= size {
                skip &-= size
                continue
            }
            let part = min(size &- skip, length &- done)
            if let start = unsafe iovecs[i].iov_base { unsafe body(start + skip, part, done) }
            done &+= part
            skip = 0
        }
    }

    @inline(__always) func zero(at: Int, length: Int) {
        unsafe parts(at: at, length: length) { memory, length, _ in unsafe memset(memory, 0, length) }
    }

    /// Gathers the `length` bytes at `at`.
    @inline(__always) func copyOut(_ target: UnsafeMutableRawPointer, at: Int, length: Int) {
        unsafe parts(at: at, length: length) { memory, length, before in unsafe memcpy(target + before, memory, length)
        }
    }

    /// The byte at `at`.
    func byte(_ at: Int) -> UInt8 {
        var byte: UInt8 = 0
        unsafe parts(at: at, length: 1) { memory, _, _ in byte = unsafe memory.load(as: UInt8.self) }
        return byte
    }

    @inline(__always) func copy(_ source: UnsafeRawPointer, at: Int, length: Int) {
        unsafe parts(at: at, length: length) { memory, length, before in unsafe memcpy(memory, source + before, length)
        }
    }

    /// Writes the ranges of the `length` bytes at `at` to `out`, which has room for `count`; how many they are.
    func slice(at: Int, length: Int, into out: UnsafeMutablePointer<iovec>) -> Int {
        var filled = 0
        unsafe parts(at: at, length: length) { memory, length, _ in
            unsafe out[filled] = unsafe iovec(iov_base: memory, iov_len: length)
            filled &+= 1
        }
        return filled
    }

    /// Whether a direct read can go straight into the `length` bytes at `at`.
    @inline(__always) func isAligned(at: Int, length: Int, memoryMask: UInt, lengthMask: UInt64) -> Bool {
        var bits: UInt = 0
        unsafe parts(at: at, length: length) { memory, length, _ in
            bits |= UInt(bitPattern: memory) & memoryMask | UInt(bitPattern: length) & UInt(lengthMask)
        }
        return bits == 0
    }
}
