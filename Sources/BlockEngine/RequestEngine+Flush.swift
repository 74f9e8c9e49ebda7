// Why this file exists: a flush promises that everything answered before it is on the medium. Any number of them that
// come while one fdatasync runs wait for the next, which serves them all: the running one may have begun too early.
import DiskTypes
import Glibc
import LinuxIO

/// Flushes on their way and in line.
struct FlushLine: BitwiseCopyable {
    var isRunning = false
    /// Answered when the running fdatasync is done.
    var covered = Queue()
    /// Came while it ran.
    var next = Queue()

    init() {}
}

extension RequestEngine {
    /// Takes in a flush, or the end of a change that must be durable before it is answered.
    func flush(_ slot: Int32) {
        guard chain.isWritable, !ignoresFlushes else { return finish(slot) }
        slots[Int(slot)].state = .syncing
        if let allocations, allocations.writer.flushesMapping { return flushMapping(slot, allocations) }
        if flushes.isRunning { return flushes.next.push(slot, in: slots) }
        flushes.covered.push(slot, in: slots)
        startSync()
    }

    private func startSync() {
        flushes.isRunning = true
        statistics.syncs &+= 1
        if !prepareSync() { deferred.push(tag(Tag.sync, 0)) }
    }

    /// In-place writes touch the file of the data alone.
    func prepareSync() -> Bool {
        ring.prepareFsync(fd: files[Int(plainFile)].buffered, dataOnly: true, userData: tag(Tag.sync, 0))
    }

    func completeSync(_ result: Int32) {
        if result == -EINTR || result == -EAGAIN {
            if !prepareSync() { deferred.push(tag(Tag.sync, 0)) }
            return
        }
        let isBuffered = files[Int(plainFile)].data == files[Int(plainFile)].buffered
        let error = chain.flushed(0 &- result, buffered: isBuffered)
        if result < 0, isBuffered { allocations?.writer.foundLoss() }
        var covered = flushes.covered.takeAll()
        flushes.isRunning = false
        if !flushes.next.isEmpty {
            flushes.covered = flushes.next.takeAll()
            startSync()
        }
        while !covered.isEmpty {
            let slot = covered.pop(from: slots)
            if error != 0 { fail(slot, error) }
            slots[Int(slot)].state = .finished
            finished.push(slot, in: slots)
        }
    }
}
