// The chain names the mapping tables it lacks; they are read here. However many requests want one table, it is read once,
// and they wait in its line.
import DiskTypes
import Glibc
import LinuxIO

/// A table on its way.
@safe private struct TableLoad: TableRecord {
    typealias Index = TableLoadIndex

    var read = TableRead(layer: 0, file: 0, host: HostOffset(0), length: 0, token: 0)
    var waiters = IndexQueue<Request>()
    /// Bytes that are there.
    var got: Int = 0
    var retries: UInt32 = 0
    var buffer: UnsafeMutableRawPointer?
    var capacity = 0
    var isUsed = false
}

/// What came of a request's wish for a table.
enum TableWait {
    /// The request waits for a read that was under way.
    case joined
    /// The same, and the read must be sent.
    case started(TableLoadIndex)
    /// As many tables as possible are on their way.
    case full
    /// The table cannot be one, or was read and gone again too often.
    case refused
}

/// What came of a table's read.
@safe enum TableOutcome {
    /// The rest of the table must be asked for.
    case again
    /// The table's bytes (fewer than asked for where the file ends), valid until the next table is asked for.
    case loaded(TableRead, UnsafeRawBufferPointer, waiters: IndexQueue<Request>)
    /// The errno.
    case failed(TableRead, Int32, waiters: IndexQueue<Request>)
}

/// The tables on their way. Few: looking through them all is what a cold lookup costs anyway, next to a read.
struct L2TableLoader: ~Copyable {
    private let records: RecordTable<TableLoad>
    private let fileCount: Int
    private var used = 0

    /// No table of any format is larger, in bytes; a map that asks for more is not believed.
    private static var largestTable: UInt32 { 64 << 20 }
    /// A table can be thrown out by other requests between its arrival and the look that wanted it. Each new try has a
    /// fair chance, so this many in a row mean that the cache cannot hold one look-up at all.
    private static var tryLimit: UInt32 { 4096 }

    init(count: Int, fileCount: Int) {
        records = RecordTable(count: count, of: TableLoad())
        self.fileCount = fileCount
    }

    /// How many tables can be on their way.
    var count: Int { records.count }

    func free() {
        for i in 0..<records.count { unsafe records[TableLoadIndex(i)].buffer?.deallocate() }
        records.deallocate()
    }

    /// Puts a request into the line of a table.
    mutating func wait(
        for table: TableRead, _ request: RequestIndex, in requests: borrowing RecordTable<Request>
    ) -> TableWait {
        requests[request].tableTries &+= 1
        guard requests[request].tableTries <= L2TableLoader.tryLimit, table.length > 0,
            table.length <= L2TableLoader.largestTable, Int(table.file) < fileCount
        else { return .refused }
        var load = find(table)
        let isNew = !load.exists
        if isNew { load = take(table) }
        guard load.exists else { return .full }
        requests[request].state = .needsTable
        records[load].waiters.push(request, in: requests)
        return isNew ? .started(load) : .joined
    }

    /// Prepares the read of what a table lacks. False: the ring has no room.
    func prepare(
        _ load: TableLoadIndex, on ring: Ring, _ files: borrowing RecordTable<DataFile>, userData: UInt64
    ) -> Bool {
        let table = records[load].read
        let got = records[load].got
        // Every load that was taken has a buffer.
        return unsafe ring.prepareRead(
            fd: files[table.file].buffered, buffer: records[load].buffer.unsafelyUnwrapped + got,
            count: table.length &- UInt32(truncatingIfNeeded: got), offset: table.host.bytes &+ UInt64(got),
            userData: userData)
    }

    /// Takes in the end of a read.
    mutating func complete(_ load: TableLoadIndex, _ result: Int32) -> TableOutcome {
        if result == -EAGAIN || result == -EINTR, records[load].retries < TransferQueue.retryLimit {
            records[load].retries &+= 1
            return .again
        }
        let table = records[load].read
        if result > 0 {
            records[load].got &+= Int(result)
            records[load].retries = 0
            if records[load].got < Int(table.length) { return .again }
        }
        let waiters = records[load].waiters.takeAll()
        give(load)
        // A result of 0 is the end of the file: the map judges what a cut table means.
        guard result >= 0 else { return .failed(table, 0 &- result, waiters: waiters) }
        let bytes = unsafe UnsafeRawBufferPointer(start: records[load].buffer, count: records[load].got)
        return unsafe .loaded(table, bytes, waiters: waiters)
    }

    private func find(_ table: TableRead) -> TableLoadIndex {
        guard used > 0 else { return .none }
        for i in 0..<records.count where records[TableLoadIndex(i)].isUsed && records[TableLoadIndex(i)].read == table {
            return TableLoadIndex(i)
        }
        return .none
    }

    private mutating func take(_ table: TableRead) -> TableLoadIndex {
        for i in 0..<records.count where !records[TableLoadIndex(i)].isUsed {
            let load = TableLoadIndex(i)
            records[load].isUsed = true
            records[load].read = table
            records[load].waiters = IndexQueue<Request>()
            records[load].got = 0
            records[load].retries = 0
            let needed = Int(table.length)
            if records[load].capacity < needed {
                unsafe records[load].buffer?.deallocate()
                unsafe records[load].buffer = .allocate(byteCount: needed, alignment: 4096)
                records[load].capacity = needed
            }
            used += 1
            return load
        }
        return .none
    }

    private mutating func give(_ load: TableLoadIndex) {
        records[load].isUsed = false
        used -= 1
    }
}
