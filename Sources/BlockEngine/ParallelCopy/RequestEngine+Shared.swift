// Which long transfers are worth a second thread, and may have one: those between the callers' memory
// and pages that are in memory, where nothing has to be waited for.
import Glibc
import LinuxIO

extension RequestEngine {
    /// Moves the bytes of a request from its byte `at` on together with the helper. False: not all of them, by
    /// then or at all; another way does it again.
    @inline(__always) func moveTogether(_ request: RequestIndex, at: Int, _ length: Int, _ file: UInt16, _ host: UInt64)
        -> Bool
    {
        guard let helper, length >= helper.least else { return false }
        return moveTogether(helper, request, at, length, file, host)
    }

    @inline(never) private func moveTogether(
        _ helper: CopyHelper, _ request: RequestIndex, _ at: Int, _ length: Int, _ file: UInt16, _ host: UInt64
    ) -> Bool {
        let side = files[file]
        let isWrite = requests[request].operation == .write
        let mayTry =
            isWrite
            ? side.isMemory && side.writesInline && writesInline && !writeThrough : side.pages.holds(host, length)
        guard mayTry, length <= RequestEngine.sharedLimit, !faults.isPaused, mayCall(file), helper.shouldShare,
            let window = side.window
        else { return false }
        var transfer = ParallelCopy(
            memory: memory(of: request), at: at, length: length, isWrite: isWrite, fd: side.data, host: host,
            byMapping: side.isMemory, pages: side.pages, sources: sources, chunkBytes: helper.chunkBytes)
        if isWrite {
            guard transfer.isInSectors() else { return false }
            guard window._withUnsafeGuaranteedRef({ $0.makeRoom(host, length) }) else {
                suspectCut()
                return false
            }
        }
        let helped = timed(file) { helper.run(transfer) }
        guard let helped, isWrite || !isCut(file, host, length, last: memory(of: request).byte(at &+ length &- 1))
        else {
            window._withUnsafeGuaranteedRef { $0.forget(host, UInt64(length)) }
            return false
        }
        if helped > 0 { statistics.shared &+= 1 }
        if isWrite { wrotePages(host, length) }
        return true
    }
    /// Longer ones keep others waiting.
    static var sharedLimit: Int { 1 << 20 }
}
