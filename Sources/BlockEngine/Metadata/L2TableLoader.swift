// The chain names the mapping tables it lacks; they are read here. However many requests want
// one table, it is read once, and they wait in its line.
import DiskTypes
import Glibc
import LinuxIO

/// A table on its way.
struct TableLoad: BitwiseCopyable {
    var read: TableRead
    var waiters = IndexQueue()
    var got: Int = 0
    var retries: UInt32 = 0
    var buffer: UnsafeMutableRawPointer?
    var capacity = 0
    var isUsed = false

    init() { read = TableRead(layer: 0, file: 0, host: HostOffset(0), length: 0, token: 0) }
}

/// The tables on their way. Few: looking through them all is what a cold lookup costs anyway, next to a read.
struct L2TableLoads {
    let records: UnsafeMutablePointer<TableLoad>
    let count: Int
    private(set) var used = 0

    init(count: Int) {
        self.count = count
        records = slab(count, of: TableLoad())
    }

    func find(_ table: TableRead) -> Int32 {
        guard used > 0 else { return none }
        for i in 0..<count where records[i].isUsed && records[i].read == table { return Int32(i) }
        return none
    }

    mutating func take(_ table: TableRead) -> Int32 {
        for i in 0..<count where !records[i].isUsed {
            let record = records + i
            record.pointee.isUsed = true
            record.pointee.read = table
            record.pointee.waiters = IndexQueue()
            record.pointee.got = 0
            record.pointee.retries = 0
            let needed = Int(table.length)
            if record.pointee.capacity < needed {
                record.pointee.buffer?.deallocate()
                record.pointee.buffer = .allocate(byteCount: needed, alignment: 4096)
                record.pointee.capacity = needed
            }
            used += 1
            return Int32(i)
        }
        return none
    }

    mutating func give(_ index: Int32) {
        records[Int(index)].isUsed = false
        used -= 1
    }

    func free() {
        for i in 0..<count { records[i].buffer?.deallocate() }
        records.deallocate()
    }
}

extension RequestEngine {
    /// No table of any format is larger; a map that asks for more is not believed.
    static var largestTable: UInt32 { 64 << 20 }

    /// Puts the request into the line of a table, starting its read if it is the first. False: the request cannot wait for
    /// it and failed.
    func awaitTable(_ table: TableRead, _ request: Int32) -> Bool {
        let record = requests + Int(request)
        record.pointee.tableTries &+= 1
        guard record.pointee.tableTries <= RequestEngine.tableTryLimit, table.length > 0,
            table.length <= RequestEngine.largestTable, Int(table.file) < fileCount
        else {
            failTable(table, request, EIO)
            return false
        }
        var load = tables.find(table)
        if load < 0 {
            load = tables.take(table)
            guard load >= 0 else {
                waitForResources(request)
                return true
            }
            statistics.tableReads &+= 1
            sendTable(load)
        }
        record.pointee.state = .needsTable
        tables.records[Int(load)].waiters.push(request, in: requests)
        return true
    }

    private func failTable(_ table: TableRead, _ request: Int32, _ error: Int32) {
        let record = requests + Int(request)
        if record.pointee.error == 0 {
            record.pointee.hasDamage = true
            record.pointee.damage = MapDamage(
                reason: .tableUnreadable, layer: table.layer, guest: GuestOffset(record.pointee.cursor),
                length: record.pointee.end &- record.pointee.cursor, table: table.host)
        }
        fail(request, error)
    }

    private func sendTable(_ load: Int32) {
        if !prepareTable(load) { backlog.push(tag(CompletionTag.table, load)) }
    }

    func prepareTable(_ load: Int32) -> Bool {
        let record = tables.records + Int(load)
        // Every load that was taken has a buffer.
        let buffer = record.pointee.buffer.unsafelyUnwrapped
        let got = record.pointee.got
        return ring.prepareRead(
            fd: files[Int(record.pointee.read.file)].buffered, buffer: buffer + got,
            count: record.pointee.read.length &- UInt32(truncatingIfNeeded: got),
            offset: record.pointee.read.host.bytes &+ UInt64(got), userData: tag(CompletionTag.table, load))
    }

    func completeTable(_ load: Int32, _ result: Int32) {
        let record = tables.records + Int(load)
        let table = record.pointee.read
        if result == -EAGAIN || result == -EINTR, record.pointee.retries < RequestEngine.retryLimit {
            record.pointee.retries &+= 1
            statistics.retries &+= 1
            return sendTable(load)
        }
        if result > 0 {
            record.pointee.got &+= Int(result)
            record.pointee.retries = 0
            if record.pointee.got < Int(table.length) { return sendTable(load) }
        }
        // A result of 0 is the end of the file: the map judges what a cut table means.
        if result >= 0 {
            chain.supply(table, UnsafeRawBufferPointer(start: record.pointee.buffer, count: record.pointee.got))
        }
        var waiters = record.pointee.waiters.takeAll()
        tables.give(load)
        // All of them look before any other table is supplied here: the one they wanted is still there.
        while !waiters.isEmpty {
            let request = waiters.pop(from: requests)
            if result < 0 { failTable(table, request, 0 &- result) }
            advance(request)
        }
    }
}
