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

    let members: UnsafeMutablePointer<RequestIndex>
    var count = 0
    var host: UInt64 = 0
    /// Where the next one must begin.
    var end: UInt64 = 0
    var isWrite = false

    init() { members = slab(RequestRun.requestLimit, of: .none) }
}

extension RequestEngine {
    /// Takes a request in that is one aligned range of the plain file; it is sent by `closeRun` at the latest.
    @inline(__always) func addToRun(_ request: RequestIndex, host: UInt64, length: Int, isWrite: Bool) {
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
        let length = Int(truncatingIfNeeded: requests[request].end &- requests[request].start)
        let sent = sendStraight(
            plainFile, run.host, into: requests[request].base.unsafelyUnwrapped, at: 0, length, request)
        if !sent { beginAdvance(request) }
    }

    @inline(never) private func closeLongRun() {
        let count = run.count
        run.count = 0
        guard count > 0 else { return }
        let list = lists.take()
        let transfer = !list.exists ? .none : takeTransfer(for: run.members[0])
        guard transfer.exists else {
            if list.exists { lists.give(list) }
            for i in 0..<count { beginAdvance(run.members[i]) }
            return
        }
        let ranges = lists[list]
        for i in 0..<count {
            let length = Int(truncatingIfNeeded: requests[run.members[i]].end &- requests[run.members[i]].start)
            ranges[i] = iovec(iov_base: requests[run.members[i]].base, iov_len: length)
            if i > 0 { requests[run.members[i]].transfers &+= 1 }
            requests[run.members[i]].next = i &+ 1 < count ? run.members[i &+ 1] : .none
        }
        fill(
            transfer, .merged, plainFile, at: count, length: Int(truncatingIfNeeded: run.end &- run.host),
            host: run.host)
        transfers[transfer].list = list
        counters.merged &+= UInt64(count)
        send(transfer)
    }

    /// All requests of a merged transfer are done, or each is on its own.
    func completeMerged(_ transfer: TransferIndex, _ result: Int32) {
        let isWhole = Int(result) == transfers[transfer].left
        if isWhole { pageCache.sawPages(transfers[transfer].file, transfers[transfer].host, transfers[transfer].left) }
        lists.give(transfers[transfer].list)
        transfers[transfer].list = .none
        freeTransfers.give(transfer)
        var request = transfers[transfer].request
        while request.exists {
            let next = requests[request].next
            requests[request].transfers &-= 1
            if isWhole {
                finish(request)
            } else {
                counters.retries &+= 1
                beginAdvance(request)
            }
            request = next
        }
    }
}
