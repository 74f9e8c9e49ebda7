// The chain names the mapping tables it lacks; they are read here. However many requests want
// one table, it is read once, and they wait in its line.
import DiskTypes
import Glibc
import LinuxIO

/// A table on its way.
struct TableLoad: TableRecord {
    typealias Index = TableLoadIndex

    var read: TableRead
    var waiters = IndexQueue<Request>()
    var got: Int = 0
    var retries: UInt32 = 0
    var buffer: UnsafeMutableRawPointer?
    var capacity = 0
    var isUsed = false

    init() { read = TableRead(layer: 0, file: 0, host: HostOffset(0), length: 0, token: 0) }
}

/// The tables on their way. Few: looking through them all is what a cold lookup costs anyway, next to a read.
struct L2TableLoads: ~Copyable {
    let records: RecordTable<TableLoad>
    let count: Int
    private(set) var used = 0

    init(count: Int) {
        self.count = count
        records = RecordTable(count: count, of: TableLoad())
    }

    func find(_ table: TableRead) -> TableLoadIndex {
        guard used > 0 else { return .none }
        for i in 0..<count where records[TableLoadIndex(i)].isUsed && records[TableLoadIndex(i)].read == table {
            return TableLoadIndex(i)
        }
        return .none
    }

    mutating func take(_ table: TableRead) -> TableLoadIndex {
        for i in 0..<count where !records[TableLoadIndex(i)].isUsed {
            records[TableLoadIndex(i)].isUsed = true
            records[TableLoadIndex(i)].read = table
            records[TableLoadIndex(i)].waiters = IndexQueue<Request>()
            records[TableLoadIndex(i)].got = 0
            records[TableLoadIndex(i)].retries = 0
            let needed = Int(table.length)
            if records[TableLoadIndex(i)].capacity < needed {
                records[TableLoadIndex(i)].buffer?.deallocate()
                records[TableLoadIndex(i)].buffer = .allocate(byteCount: needed, alignment: 4096)
                records[TableLoadIndex(i)].capacity = needed
            }
            used += 1
            return TableLoadIndex(i)
        }
        return .none
    }

    mutating func give(_ index: TableLoadIndex) {
        records[index].isUsed = false
        used -= 1
    }

    func free() {
        for i in 0..<count { records[TableLoadIndex(i)].buffer?.deallocate() }
        records.deallocate()
    }
}

extension RequestEngine {
    /// No table of any format is larger; a map that asks for more is not believed.
    static var largestTable: UInt32 { 64 << 20 }

    /// Puts the request into the line of a table, starting its read if it is the first. False: the request cannot wait for
    /// it and failed.
    func awaitTable(_ table: TableRead, _ request: RequestIndex) -> Bool {
        requests[request].tableTries &+= 1
        guard requests[request].tableTries <= RequestEngine.tableTryLimit, table.length > 0,
            table.length <= RequestEngine.largestTable, Int(table.file) < fileCount
        else {
            failTable(table, request, EIO)
            return false
        }
        var load = tables.find(table)
        if !load.exists {
            load = tables.take(table)
            guard load.exists else {
                waitForResources(request)
                return true
            }
            counters.tableReads &+= 1
            sendTable(load)
        }
        requests[request].state = .needsTable
        tables.records[load].waiters.push(request, in: requests)
        return true
    }

    private func failTable(_ table: TableRead, _ request: RequestIndex, _ error: Int32) {
        if requests[request].error == 0 {
            requests[request].hasDamage = true
            requests[request].damage = MapDamage(
                reason: .tableUnreadable, layer: table.layer, guest: GuestOffset(requests[request].cursor),
                length: requests[request].end &- requests[request].cursor, table: table.host)
        }
        fail(request, error)
    }

    private func sendTable(_ load: TableLoadIndex) {
        if !prepareTable(load) { backlog.push(tag(CompletionTag.table, load)) }
    }

    func prepareTable(_ load: TableLoadIndex) -> Bool {
        // Every load that was taken has a buffer.
        let buffer = tables.records[load].buffer.unsafelyUnwrapped
        let got = tables.records[load].got
        return ring.prepareRead(
            fd: files[tables.records[load].read.file].buffered, buffer: buffer + got,
            count: tables.records[load].read.length &- UInt32(truncatingIfNeeded: got),
            offset: tables.records[load].read.host.bytes &+ UInt64(got), userData: tag(CompletionTag.table, load))
    }

    func completeTable(_ load: TableLoadIndex, _ result: Int32) {
        let table = tables.records[load].read
        if result == -EAGAIN || result == -EINTR, tables.records[load].retries < RequestEngine.retryLimit {
            tables.records[load].retries &+= 1
            counters.retries &+= 1
            return sendTable(load)
        }
        if result > 0 {
            tables.records[load].got &+= Int(result)
            tables.records[load].retries = 0
            if tables.records[load].got < Int(table.length) { return sendTable(load) }
        }
        // A result of 0 is the end of the file: the map judges what a cut table means.
        if result >= 0 {
            chain.supply(
                table, UnsafeRawBufferPointer(start: tables.records[load].buffer, count: tables.records[load].got))
        }
        var waiters = tables.records[load].waiters.takeAll()
        tables.give(load)
        // All of them look before any other table is supplied here: the one they wanted is still there.
        while !waiters.isEmpty {
            let request = waiters.pop(from: requests)
            if result < 0 { failTable(table, request, 0 &- result) }
            advance(request)
        }
    }
}
