// Which long transfers are worth a second thread, and may have one: those between the callers' memory and pages that are
// in memory, where nothing has to be waited for.
import Glibc
import LinuxIO

extension PageCacheIO {
    /// The longest transfer that two threads share, in bytes: longer ones keep others waiting.
    static var sharedLimit: Int { 1 << 20 }

    /// Moves bytes of a request from its byte `at` on together with the helper. False: not all of them, by then or at all;
    /// another way does it again.
    @inline(__always) mutating func moveTogether(
        _ memory: RequestMemory, at: Int, _ length: Int, _ file: UInt16, _ host: UInt64, isWrite: Bool
    ) -> Bool {
        guard let helper, length >= helper.least else { return false }
        return moveTogether(helper, memory, at, length, file, host, isWrite: isWrite)
    }

    @inline(never) private mutating func moveTogether(
        _ helper: CopyHelper, _ memory: RequestMemory, _ at: Int, _ length: Int, _ file: UInt16, _ host: UInt64,
        isWrite: Bool
    ) -> Bool {
        let side = files[file]
        let mayTry = isWrite ? side.isMemory && side.writesInline && mayWrite : side.pages.holds(host, length)
        guard mayTry, length <= PageCacheIO.sharedLimit, !faults.isPaused, mayCall(file), helper.shouldShare,
            let window = unsafe side.window
        else { return false }
        var copy = ParallelCopy(
            memory: memory, at: at, length: length, isWrite: isWrite, fd: side.data, host: host,
            byMapping: side.isMemory, pages: side.pages, sources: sources, chunkBytes: helper.chunkBytes)
        if isWrite {
            guard copy.isInSectors() else { return false }
            guard unsafe window._withUnsafeGuaranteedRef({ $0.makeRoom(host, length) }) else {
                cut.suspect()
                return false
            }
        }
        let start = startTimer(file)
        let helped = helper.run(copy)
        stopTimer(file, start)
        guard let helped, isWrite || !isCut(file, host, length, last: memory.byte(at &+ length &- 1)) else {
            forget(file, host, UInt64(length))
            return false
        }
        if helped > 0 { shared &+= 1 }
        if isWrite { wrotePages(host, length) }
        return true
    }
}
