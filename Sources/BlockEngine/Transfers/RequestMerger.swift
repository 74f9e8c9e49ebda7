// A guest that reads a file sends its requests in a row, and most of their bytes are neighbours on
// the host too. Requests of one batch that continue each other become one transfer: fewer calls into the file system in
// memory, larger I/O on a disk. A transfer that ends otherwise than whole is taken apart again, request by request.
import DiskTypes
import Glibc
import LinuxIO

/// Requests, each one plain range, whose bytes follow each other in one file. Not sent yet.
struct RequestRun: BitwiseCopyable {
    static let requestLimit = 64
    static let byteLimit = 1 << 20

    let members: UnsafeMutablePointer<Int32>
    var count = 0
    var host: UInt64 = 0
    /// Where the next one must begin.
    var end: UInt64 = 0
    var isWrite = false

    init() { members = slab(RequestRun.requestLimit, of: none) }
}

extension RequestEngine {
    /// Takes a request in that is one aligned range of the plain file; it is sent by `closeRun` at the latest.
    @inline(__always) func addToRun(_ request: Int32, host: UInt64, length: Int, isWrite: Bool) {
        if run.count > 0 {
            let fits =
                host == run.end && isWrite == run.isWrite && run.count < runLimit
                && host &+ UInt64(truncatingIfNeeded: length) &- run.host <= UInt64(RequestRun.byteLimit)
            if fits {
                run.members[run.count] = request
                run.count &+= 1
                run.end = host &+ UInt64(truncatingIfNeeded: length)
                return
            }
            closeRun()
        }
        run.members[0] = request
        run.count = 1
        run.host = host
        run.end = host &+ UInt64(truncatingIfNeeded: length)
        run.isWrite = isWrite
    }

    /// Sends what was gathered.
    @inline(__always) func closeRun() {
        guard run.count == 1 else { return closeLongRun() }
        run.count = 0
        let request = run.members[0]
        let record = requests + Int(request)
        let length = Int(truncatingIfNeeded: record.pointee.end &- record.pointee.start)
        let sent = sendStraight(
            plainFile, run.host, into: record.pointee.base.unsafelyUnwrapped, at: 0, length, request)
        if !sent { beginAdvance(request) }
    }

    @inline(never) private func closeLongRun() {
        let count = run.count
        run.count = 0
        guard count > 0 else { return }
        let list = lists.take()
        let transfer = list < 0 ? none : takeTransfer(for: run.members[0])
        guard transfer >= 0 else {
            if list >= 0 { lists.give(list) }
            for i in 0..<count { beginAdvance(run.members[i]) }
            return
        }
        let ranges = lists[list]
        for i in 0..<count {
            let record = requests + Int(run.members[i])
            let length = Int(truncatingIfNeeded: record.pointee.end &- record.pointee.start)
            ranges[i] = iovec(iov_base: record.pointee.base, iov_len: length)
            if i > 0 { record.pointee.transfers &+= 1 }
            record.pointee.next = i &+ 1 < count ? run.members[i &+ 1] : none
        }
        fill(
            transfer, .merged, plainFile, at: count, length: Int(truncatingIfNeeded: run.end &- run.host),
            host: run.host)
        transfers[Int(transfer)].list = list
        statistics.merged &+= UInt64(count)
        send(transfer)
    }

    /// All requests of a merged transfer are done, or each is on its own.
    func completeMerged(_ transfer: Int32, _ result: Int32) {
        let record = transfers + Int(transfer)
        let isWhole = Int(result) == record.pointee.left
        if isWhole { sawPages(record.pointee.file, record.pointee.host, record.pointee.left) }
        lists.give(record.pointee.list)
        record.pointee.list = none
        freeTransfers.give(transfer)
        var request = record.pointee.request
        while request >= 0 {
            let next = requests[Int(request)].next
            requests[Int(request)].transfers &-= 1
            if isWhole {
                finish(request)
            } else {
                statistics.retries &+= 1
                beginAdvance(request)
            }
            request = next
        }
    }
}
