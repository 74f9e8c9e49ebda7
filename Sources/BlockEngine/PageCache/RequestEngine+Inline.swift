// The ring hands every buffered write of a file to a thread of the kernel, which costs more than the
// write: the page cache takes one in a microsecond. So the worker writes itself, as long as that is all it takes.
import DiskTypes
import Glibc
import LinuxIO

extension RequestEngine {
    /// A write this long may be a plain call; longer ones keep others waiting. (Writes of one file exclude each other in
    /// the kernel.)
    static var inlineLimit: Int { 1 << 20 }

    @inline(__always) private func mayWriteNow(_ file: UInt16, _ length: Int) -> Bool {
        files[file].writesInline && length <= RequestEngine.inlineLimit && !writeThrough && writesInline
            && mayCall(file)
    }

    /// The page cache of a disk may be full. Memory that is a file's only place never waits.
    @inline(__always) func mayCall(_ file: UInt16) -> Bool { files[file].isMemory || throttle.mayCall }

    /// Does something that may wait in the page cache.
    @inline(__always) func timed<Result>(_ file: UInt16, _ call: () -> Result) -> Result {
        if files[file].isMemory { return call() }
        let before = DirtyThrottleMonitor.now()
        let result = call()
        throttle.record(since: before)
        return result
    }

    /// Does a whole request at once. False: better by the ring.
    @inline(__always) func writeInline(
        _ host: UInt64, _ base: UnsafeMutableRawPointer, _ length: Int, _ request: RequestIndex
    ) -> Bool {
        guard moveTogether(request, at: 0, length, plainFile, host) || writeNow(host, base, length) else {
            return isCutKnown && endsCut(request)
        }
        finish(request)
        return true
    }

    /// Whether a write would hide that the file was cut: one that reaches the file's end gives it back its length. Any other
    /// leaves the file shorter than it was, which the next flush notices.
    @inline(__always) func hidesCut(_ host: UInt64, _ length: Int) -> Bool {
        host &+ UInt64(truncatingIfNeeded: length) >= watchedEnd && isCutNow()
    }

    @inline(never) private func isCutNow() -> Bool {
        watchedEnd = chain.files[Int(plainFile)].assuredLength
        isCutKnown = chain.isCut()
        return isCutKnown
    }

    /// Ends a write to a file that was cut: another try would make it longer again.
    @inline(never) private func endsCut(_ request: RequestIndex) -> Bool {
        failCut(request)
        finish(request)
        return true
    }

    func failCut(_ request: RequestIndex) {
        let start = GuestOffset(requests[request].start)
        failDamaged(
            request,
            MapDamage(
                reason: .fileWasCut, guest: start, length: requests[request].end &- start.bytes,
                table: HostOffset(0)))
    }

    /// A write through the mapping met no page, or pages that the file does not have: it may have been cut.
    @inline(never) func suspectCut() { if chain.isCut() { isCutKnown = true } }

    /// Writes `length` bytes into the file of the data. False: not all of them are there; the ring does it (again).
    /// `isNew`: the bytes have no pages in memory yet.
    @inline(__always) func writeNow(
        _ host: UInt64, _ base: UnsafeRawPointer, _ length: Int, isNew: Bool = false
    ) -> Bool {
        guard mayWriteNow(plainFile, length) else { return false }
        return timed(plainFile) {
            if !isNew, writeMapped(host, base, length) { return true }
            if isCutKnown { return false }
            let written = pwrite(files[plainFile].data, base, length, off_t(truncatingIfNeeded: host))
            if written == length { wrotePages(host, length) }
            return written == length
        }
    }

    /// The same from a request's own memory, from its byte `at` on, in one transfer or many.
    func writeNow(_ request: RequestIndex, at: Int, _ length: Int, _ host: UInt64, isNew: Bool = false) -> Bool {
        if moveTogether(request, at: at, length, plainFile, host) { return true }
        if let base = requests[request].base { return writeNow(host, base + at, length, isNew: isNew) }
        guard mayWriteNow(plainFile, length), lists.available > 0 else { return false }
        let list = lists.take()
        let count = memory(of: request).slice(at: at, length: length, into: lists[list])
        let written = timed(plainFile) {
            VectorTransfer.write(files[plainFile].data, lists[list], count, at: host)
        }
        lists.give(list)
        if written == length { wrotePages(host, length) }
        return written == length
    }
}
