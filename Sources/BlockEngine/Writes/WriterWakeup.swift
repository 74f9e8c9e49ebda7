// A request that needs a cluster which another write owns, a table, or the mapping on the disk, waits for another worker or
// for the image's helper thread. They signal an eventfd, which the ring polls as long as a request waits.
import Glibc
import ImageChain
import LinuxIO

extension RequestEngine {
    /// Always false, for `return waitForWakeup(request)`.
    func waitForWakeup(_ request: RequestIndex, _ allocations: Allocations) -> Bool {
        requests[request].state = .waitingForResources
        allocations.waiting.push(request, in: requests)
        armPoll(allocations)
        return false
    }

    private func armPoll(_ allocations: Allocations) {
        guard !allocations.isPollArmed else { return }
        allocations.isPollArmed = true
        if !preparePoll() { backlog.push(tag(CompletionTag.wakeup)) }
    }

    func preparePoll() -> Bool {
        guard let allocations else { return true }
        return ring.preparePollAdd(fd: allocations.client.wakeup.raw, events: 1, userData: tag(CompletionTag.wakeup))
    }

    func onWakeup() {
        guard let allocations else { return }
        allocations.isPollArmed = false
        allocations.client.wakeup.take()
        allocations.writer.stopWaiting(allocations.client)
        finishFlushes(allocations)
        advanceWaiting(allocations)
        if allocations.hasWaiters {
            allocations.writer.startWaiting(allocations.client)
            armPoll(allocations)
            // A flush that ended in between has not rung.
            finishFlushes(allocations)
        }
        cancelPoll(allocations)
    }

    /// Every waiting request advances; one that must wait on goes to the end of the line.
    func advanceWaiting(_ allocations: Allocations) {
        var line = allocations.waiting.takeAll()
        while !line.isEmpty { advance(line.pop(from: requests)) }
        cancelPoll(allocations)
    }

    /// When no request waits the eventfd's poll must end: the engine may be dropped.
    private func cancelPoll(_ allocations: Allocations) {
        if allocations.isPollArmed, !allocations.hasWaiters { allocations.client.wakeup.signal() }
    }

    // MARK: flushing the mapping

    /// The helper thread brings data and mapping to the disk.
    func flushMapping(_ request: RequestIndex, _ allocations: Allocations) {
        allocations.writer.startWaiting(allocations.client)
        requests[request].flushTicket = allocations.writer.requestFlush()
        allocations.flushing.push(request, in: requests)
        armPoll(allocations)
    }

    private func finishFlushes(_ allocations: Allocations) {
        var line = allocations.flushing.takeAll()
        while !line.isEmpty {
            let request = line.pop(from: requests)
            guard let error = allocations.writer.result(of: requests[request].flushTicket) else {
                allocations.flushing.push(request, in: requests)
                continue
            }
            counters.syncs &+= 1
            if error != 0 { fail(request, error) }
            requests[request].state = .finished
            finished.push(request, in: requests)
        }
    }
}
