// The ring hands every buffered write of a file to a thread of the kernel, which costs more than the write: the page cache
// takes one in a microsecond. So the worker writes itself, as long as that is all it takes.
import Glibc
import LinuxIO

/// What came of a write by the page cache.
enum PageCacheWrite {
    case done
    /// Not all of it was done: the ring does it (again).
    case absent
    /// The file was cut: it must not be written to.
    case fileWasCut
}

extension PageCacheIO {
    /// A write this long, in bytes, may be a plain call; longer ones keep others waiting. (Writes of one file exclude each
    /// other in the kernel.)
    static var inlineLimit: Int { 1 << 20 }

    /// Writes `length` bytes of a request's memory, from its byte `at` on, over bytes of a file.
    @inline(__always) mutating func write(
        _ memory: RequestMemory, at: Int, _ length: Int, _ file: UInt16, _ host: UInt64
    ) -> PageCacheWrite {
        if cut.hidesCut(host, length) { return .fileWasCut }
        if file == plainFile, writeNow(memory, at: at, length, host) { return .done }
        return cut.isCut ? .fileWasCut : .absent
    }

    /// The same into the file of the data, where a cut is no matter yet. False: the ring does it (again).
    /// `isNew`: the bytes have no pages in memory yet.
    @inline(__always) mutating func writeNow(
        _ memory: RequestMemory, at: Int, _ length: Int, _ host: UInt64, isNew: Bool = false
    ) -> Bool {
        if moveTogether(memory, at: at, length, plainFile, host, isWrite: true) { return true }
        guard mayWriteNow(length) else { return false }
        if let base = unsafe memory.base { return unsafe writeRange(host, base + at, length, isNew: isNew) }
        return writeList(memory, at, length, host)
    }

    /// Writes `length` bytes of a buffer of the engine's own. False: the ring does it (again).
    mutating func writeBuffer(_ host: UInt64, _ buffer: UnsafeRawPointer, _ length: Int) -> Bool {
        unsafe mayWriteNow(length) && writeRange(host, buffer, length, isNew: true)
    }

    @inline(__always) private func mayWriteNow(_ length: Int) -> Bool {
        files[plainFile].writesInline && length <= PageCacheIO.inlineLimit && mayWrite && mayCall(plainFile)
    }

    /// The page cache of a disk may be full. Memory that is a file's only place never waits.
    @inline(__always) func mayCall(_ file: UInt16) -> Bool { files[file].isMemory || throttle.mayCall }

    @inline(__always) private mutating func writeRange(
        _ host: UInt64, _ base: UnsafeRawPointer, _ length: Int, isNew: Bool
    ) -> Bool {
        let start = startTimer(plainFile)
        defer { stopTimer(plainFile, start) }
        if !isNew, unsafe writeMapped(host, base, length) { return true }
        if cut.isCut { return false }
        let written = unsafe pwrite(files[plainFile].data, base, length, off_t(truncatingIfNeeded: host))
        if written == length { wrotePages(host, length) }
        return written == length
    }

    private mutating func writeList(_ memory: RequestMemory, _ at: Int, _ length: Int, _ host: UInt64) -> Bool {
        if cut.isCut { return false }
        let count = unsafe memory.slice(at: at, length: length, into: list)
        let start = startTimer(plainFile)
        let written = unsafe VectorTransfer.write(files[plainFile].data, list, count, at: host)
        stopTimer(plainFile, start)
        if written == length { wrotePages(host, length) }
        return written == length
    }

    /// Writes to pages that are in memory. False: not all of it was done.
    @inline(__always) private mutating func writeMapped(
        _ host: UInt64, _ base: UnsafeRawPointer, _ length: Int
    ) -> Bool {
        let pages = files[plainFile].pages
        // Pieces of a copy end between the pages of the caller's memory: that must not be inside a sector.
        guard length <= files[plainFile].mappedWrite, UInt(bitPattern: base) & 511 == 0, host & 511 == 0,
            let source = unsafe sources.find(base, length), mayTouch(plainFile)
        else { return false }
        if !pages.holds(host, length) {
            // A write to the file would do to make them known, but with large folios it takes longer than all of this.
            guard look(plainFile, host, length) else { return false }
        }
        let place = unsafe pages.base + Int(truncatingIfNeeded: host)
        guard unsafe pread(source.fd, place, length, off_t(truncatingIfNeeded: source.offset)) == length else {
            forget(plainFile, host, UInt64(length))
            cut.suspect()
            return false
        }
        mapped &+= 1
        return true
    }

    // MARK: how long it took

    /// Something begins that may wait in the page cache.
    @inline(__always) func startTimer(_ file: UInt16) -> Int {
        files[file].isMemory ? 0 : DirtyThrottleMonitor.now()
    }

    /// It is over.
    @inline(__always) mutating func stopTimer(_ file: UInt16, _ start: Int) {
        if !files[file].isMemory { throttle.record(since: start) }
    }
}
