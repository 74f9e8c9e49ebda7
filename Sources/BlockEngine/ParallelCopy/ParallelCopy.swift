// What two threads must know to move one long request between memory and a file whose pages are in memory, and how each of
// them moves a chunk of it.
import Glibc
import LinuxIO

/// A copy in chunks, any of which either thread may move. Valid until the worker has waited for its end.
struct ParallelCopy {
    let memory: RequestMemory
    /// Where in the request its first byte is.
    let at: Int
    let length: Int
    let isWrite: Bool
    let fd: Int32
    let host: UInt64
    /// Reads copy out of the mapping: there is no disk to wait for. Else they go by the file, and fail where they would wait.
    let byMapping: Bool
    /// The file's mapping, and, for writes, the files that the memory is.
    let pages: MappedPages
    var sources: GuestMemoryFiles
    let chunkBytes: Int

    var chunkCount: Int { (length &+ chunkBytes &- 1) / chunkBytes }

    /// Moves a chunk by the file. False: not all of it.
    func move(_ chunk: Int, _ list: UnsafeMutablePointer<iovec>) -> Bool {
        let from = chunk &* chunkBytes
        let count = min(chunkBytes, length &- from)
        let ranges = unsafe memory.slice(at: at &+ from, length: count, into: list)
        let place = host &+ UInt64(truncatingIfNeeded: from)
        if isWrite { return unsafe VectorTransfer.write(fd, list, ranges, at: place) == count }
        guard byMapping else { return unsafe VectorTransfer.readNow(fd, list, ranges, at: place) == count }
        var next = place
        for i in 0..<ranges {
            guard let memory = unsafe list[i].iov_base, unsafe pages.copy(next, to: memory, list[i].iov_len) else {
                return false
            }
            unsafe next &+= UInt64(truncatingIfNeeded: list[i].iov_len)
        }
        return true
    }

    /// Moves a chunk while the other thread calls `move`. Writes to one file exclude each other in the kernel, but a write
    /// to the file's mapping does not: the kernel copies there from the file that the caller's memory is.
    mutating func moveBeside(_ chunk: Int, _ list: UnsafeMutablePointer<iovec>) -> Bool {
        guard isWrite else { return unsafe move(chunk, list) }
        let from = chunk &* chunkBytes
        let count = min(chunkBytes, length &- from)
        let place = host &+ UInt64(truncatingIfNeeded: from)
        // One call for all of its pages costs less than a fault for each.
        guard pages.populate(place, count) else { return false }
        let ranges = unsafe memory.slice(at: at &+ from, length: count, into: list)
        var next = unsafe pages.base + Int(truncatingIfNeeded: place)
        for i in 0..<ranges {
            let size = unsafe list[i].iov_len
            guard let memory = unsafe list[i].iov_base, let source = unsafe sources.find(memory, size),
                unsafe pread(source.fd, next, size, off_t(truncatingIfNeeded: source.offset)) == size
            else { return false }
            unsafe next += size
        }
        return true
    }

    /// Whether each range of the memory lies in whole sectors of files: their chunks may be cut nowhere else.
    mutating func isInSectors() -> Bool {
        var isSound = host & 511 == 0
        unsafe memory.parts(at: at, length: length) { memory, size, _ in
            isSound =
                unsafe isSound && (UInt(bitPattern: memory) | UInt(bitPattern: size)) & 511 == 0
                && sources.find(memory, size) != nil
        }
        return isSound
    }
}
