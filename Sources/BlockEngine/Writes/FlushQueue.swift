// A flush promises that everything answered before it is on the medium. Any number of them that
// come while one fdatasync runs wait for the next, which serves them all: the running one may have begun too early.
import DiskTypes
import Glibc
import LinuxIO

/// Flushes on their way and in line.
struct FlushQueue: BitwiseCopyable {
    var isRunning = false
    /// Answered when the running fdatasync is done.
    var covered = IndexQueue<Request>()
    /// Came while it ran.
    var next = IndexQueue<Request>()

    init() {}
}

extension RequestEngine {
    /// Takes in a flush, or the end of a change that must be durable before it is answered.
    func flush(_ request: RequestIndex) {
        guard chain.isWritable, !ignoresFlushes else { return finish(request) }
        requests[request].state = .syncing
        if let allocations, allocations.writer.flushesMapping { return flushMapping(request, allocations) }
        if flushes.isRunning { return flushes.next.push(request, in: requests) }
        flushes.covered.push(request, in: requests)
        startSync()
    }

    private func startSync() {
        flushes.isRunning = true
        counters.syncs &+= 1
        if !prepareSync() { backlog.push(tag(CompletionTag.sync)) }
    }

    /// In-place writes touch the file of the data alone.
    func prepareSync() -> Bool {
        ring.prepareFsync(fd: files[plainFile].buffered, dataOnly: true, userData: tag(CompletionTag.sync))
    }

    func completeSync(_ result: Int32) {
        if result == -EINTR || result == -EAGAIN {
            if !prepareSync() { backlog.push(tag(CompletionTag.sync)) }
            return
        }
        let isBuffered = files[plainFile].data == files[plainFile].buffered
        let error = chain.flushed(0 &- result, buffered: isBuffered)
        if result < 0, isBuffered { allocations?.writer.foundLoss(0 &- result) }
        var covered = flushes.covered.takeAll()
        flushes.isRunning = false
        if !flushes.next.isEmpty {
            flushes.covered = flushes.next.takeAll()
            startSync()
        }
        while !covered.isEmpty {
            let request = covered.pop(from: requests)
            if error != 0 { fail(request, error) }
            requests[request].state = .finished
            finished.push(request, in: requests)
        }
    }
}
