// Why this file exists: who needs a cluster that another is writing, a table, or the mapping on the disk, waits for somebody
// else: another worker or the image's helper. They ring a bell, which the ring listens to as long as somebody is in line.
import Glibc
import ImageChain
import LinuxIO

extension RequestEngine {
    /// Always false, for `return waitForBell(slot)`.
    func waitForBell(_ slot: Int32, _ allocations: Allocations) -> Bool {
        slots[Int(slot)].state = .parked
        allocations.waiting.push(slot, in: slots)
        armBell(allocations)
        return false
    }

    private func armBell(_ allocations: Allocations) {
        guard !allocations.isBellArmed else { return }
        allocations.isBellArmed = true
        if !prepareBell() { deferred.push(tag(Tag.bell, 0)) }
    }

    func prepareBell() -> Bool {
        guard let allocations else { return true }
        return ring.preparePollAdd(fd: allocations.client.bell.raw, events: 1, userData: tag(Tag.bell, 0))
    }

    func bellRang() {
        guard let allocations else { return }
        allocations.isBellArmed = false
        allocations.client.bell.take()
        allocations.writer.stopWaiting(allocations.client)
        goOnFlushing(allocations)
        goOnWaiting(allocations)
        if allocations.hasWaiters {
            allocations.writer.startWaiting(allocations.client)
            armBell(allocations)
            // A flush that ended in between has not rung.
            goOnFlushing(allocations)
        }
        quiet(allocations)
    }

    /// Everybody in line has another look; who must wait on goes to its end.
    func goOnWaiting(_ allocations: Allocations) {
        var line = allocations.waiting.takeAll()
        while !line.isEmpty { walk(line.pop(from: slots)) }
        quiet(allocations)
    }

    /// With nobody in line the bell's poll must end: the engine may be dropped.
    private func quiet(_ allocations: Allocations) {
        if allocations.isBellArmed, !allocations.hasWaiters { allocations.client.bell.signal() }
    }

    // MARK: flushing the mapping

    /// The helper thread brings data and mapping to the disk.
    func flushMapping(_ slot: Int32, _ allocations: Allocations) {
        allocations.writer.startWaiting(allocations.client)
        slots[Int(slot)].flushTicket = allocations.writer.requestFlush()
        allocations.flushing.push(slot, in: slots)
        armBell(allocations)
    }

    private func goOnFlushing(_ allocations: Allocations) {
        var line = allocations.flushing.takeAll()
        while !line.isEmpty {
            let slot = line.pop(from: slots)
            guard let error = allocations.writer.result(of: slots[Int(slot)].flushTicket) else {
                allocations.flushing.push(slot, in: slots)
                continue
            }
            statistics.syncs &+= 1
            if error != 0 { fail(slot, error) }
            slots[Int(slot)].state = .finished
            finished.push(slot, in: slots)
        }
    }
}
