// Where a file system cannot make zeros they are written, and all engines of the process can write the same ones. Engines
// come and go with a guest's queues: what each would own is memory to find, to clear and to give back.
import Glibc

/// Zeros that any engine may write out.
enum SharedZeros {
    /// Bytes.
    static let count = 256 << 10

    /// They are mapped read-only: the kernel's one page of zeros, many times. Nil: there is no memory.
    nonisolated(unsafe) static let memory: UnsafeMutableRawPointer? = {
        let place = unsafe mmap(nil, count, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        return unsafe place == MAP_FAILED ? nil : place
    }()
}
