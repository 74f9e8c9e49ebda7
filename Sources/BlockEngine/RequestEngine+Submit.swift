// Why this file exists: how a request comes in. Nearly all are one aligned extent of plain data whose table is in memory,
// and are on their way after a few comparisons; all others begin a walk.
public import DiskTypes
public import Glibc
import ImageChain
import LinuxIO

extension RequestEngine {
    /// Reads `length` bytes of the disk at `guest` into `buffer`, which stays the engine's until `nextFinished` hands
    /// the slot back.
    public func submitRead(slot: Int, guest: GuestOffset, buffer: UnsafeMutableRawPointer, length: Int) {
        let index = Int32(truncatingIfNeeded: slot)
        if open(slot, guest, length) { begin(index, guest, buffer, length) }
    }

    /// Reads `length` bytes of the disk at `guest` into `count` ranges of memory, one after the other. List and memory
    /// stay the engine's until `nextFinished` hands the slot back.
    public func submitRead(slot: Int, guest: GuestOffset, iovecs: UnsafePointer<iovec>, count: Int, length: Int) {
        guard open(slot, guest, length) else { return }
        transfer(Int32(truncatingIfNeeded: slot), guest, iovecs, count, length)
    }

    /// Takes in a request as a door has checked it. Its list and memory stay the engine's until `nextFinished` hands
    /// the slot back.
    @inline(__always)
    public func submit(_ request: BlockRequest) {
        let slot = Int(request.slot)
        let length = Int(truncatingIfNeeded: request.length)
        guard open(slot, request.guest, length) else { return }
        let record = slots + slot
        record.pointee.operation = request.operation
        guard request.operation == .read || chain.isWritable || request.operation == .flush else {
            return refuse(Int32(truncatingIfNeeded: slot), EROFS)
        }
        if request.operation == .read || request.operation == .write, let list = request.iovecs {
            return transfer(
                Int32(truncatingIfNeeded: slot), request.guest, list, Int(request.iovecCount), length)
        }
        record.pointee.mayUnmap = request.mayUnmap
        beginWalk(Int32(truncatingIfNeeded: slot))
    }

    @inline(__always) private func transfer(
        _ slot: Int32, _ guest: GuestOffset, _ list: UnsafePointer<iovec>, _ count: Int, _ length: Int
    ) {
        if count == 1, let base = list.pointee.iov_base, list.pointee.iov_len >= length {
            return begin(slot, guest, base, length)
        }
        transferList(slot, list, count, length)
    }

    @inline(never) private func transferList(
        _ slot: Int32, _ list: UnsafePointer<iovec>, _ count: Int, _ length: Int
    ) {
        guard count <= maxIovecs, maxIovecs > 1 else { return refuse(slot, EINVAL) }
        var room = 0
        for i in 0..<max(count, 0) {
            let (sum, overflow) = room.addingReportingOverflow(list[i].iov_len)
            guard !overflow, list[i].iov_len >= 0, list[i].iov_len == 0 || list[i].iov_base != nil else {
                return refuse(slot, EINVAL)
            }
            room = sum
        }
        guard room >= length else { return refuse(slot, EINVAL) }
        let record = slots + Int(slot)
        record.pointee.base = nil
        record.pointee.iovecs = UnsafeMutablePointer(mutating: list)
        record.pointee.iovecCount = Int32(truncatingIfNeeded: count)
        record.pointee.isExact = room == length
        beginWalk(slot)
    }

    /// Takes the slot into use; false when the request is finished already because it makes no sense.
    @inline(__always) private func open(_ slot: Int, _ guest: GuestOffset, _ length: Int) -> Bool {
        precondition(slot >= 0 && slot < slotCount, "no such slot")
        let record = slots + slot
        precondition(record.pointee.state == .free, "the slot is in flight")
        requests &+= 1
        statistics.requests &+= 1
        record.pointee.start = guest.bytes
        record.pointee.end = guest.bytes &+ UInt64(truncatingIfNeeded: length)
        record.pointee.operation = .read
        record.pointee.pieces = 0
        record.pointee.error = 0
        record.pointee.hasDamage = false
        record.pointee.needsSync = false
        if let counts { record.pointee.parity = counts.begin() }
        let diskSize = chain.size
        guard length >= 0, length <= Int(Int32.max), guest.bytes <= diskSize,
            UInt64(length) <= diskSize &- guest.bytes
        else {
            refuse(Int32(truncatingIfNeeded: slot), EINVAL)
            return false
        }
        return true
    }

    /// Starts a transfer with one range of memory. Nearly all are one aligned extent of plain data whose table is in
    /// memory: the short way is theirs.
    @inline(__always)
    private func begin(_ slot: Int32, _ guest: GuestOffset, _ base: UnsafeMutableRawPointer, _ length: Int) {
        let record = slots + Int(slot)
        record.pointee.base = base
        guard parked.isEmpty, length > 0 else { return beginWalk(slot) }
        let isWrite = record.pointee.operation == .write
        if isWrite, !isPrepared { return beginWalk(slot) }
        let bytes = UInt64(truncatingIfNeeded: length)
        let host = isWrite ? chain.overwritableOffset(guest, length: bytes) : chain.plainOffset(guest, length: bytes)
        guard let host, isStraight(plainFile, host.bytes, base, length) else { return beginWalk(slot) }
        record.pointee.state = .draining
        if isWrite {
            if hidesCut(host.bytes, length) {
                failCut(slot)
                return finish(slot)
            }
            if writeInline(host.bytes, base, length, slot) { return }
        } else if copySoon(host.bytes, base, length, slot) {
            return
        }
        addToRun(slot, host: host.bytes, length: length, isWrite: isWrite)
    }

    /// Starts a request the long way, behind those that wait for resources already. `after`: bytes that are done.
    func beginWalk(_ slot: Int32, after done: UInt64 = 0) {
        let record = slots + Int(slot)
        record.pointee.cursor = record.pointee.start &+ done
        record.pointee.tableTries = 0
        if parked.isEmpty { walk(slot) } else { park(slot) }
    }

    private func refuse(_ slot: Int32, _ error: Int32) {
        slots[Int(slot)].error = error
        slots[Int(slot)].state = .finished
        finished.push(slot, in: slots)
    }
}
