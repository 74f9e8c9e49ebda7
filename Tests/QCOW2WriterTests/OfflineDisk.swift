// The writer plans and does no I/O; here is the shortest I/O that obeys it, one request at a time on a storage in
// memory. Models and crash tests run the very code that workers run, and can stop it between any two writes.
import DiskTypes
import QCOW2
import Testing

struct DiskError: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

final class OfflineDisk<Storage: ResizableStorage> {
    let storage: Storage
    let image: QCOW2Image
    let map: QCOW2Map
    let writer: QCOW2Writer
    let backing: [UInt8]
    let startLength: UInt64
    private(set) var adoption = JournalReplay.fresh
    /// Workers that it pretends to be, in turns.
    private let places: Int
    private var turn = 0
    var size: Int { Int(map.size) }

    init(
        _ storage: Storage, backing: [UInt8] = [], cacheLimit: UInt64 = 1 << 20, places: Int = 3,
        journal: MappingJournal? = nil
    ) throws {
        self.storage = storage
        self.backing = backing
        self.places = places
        startLength = storage.length
        image = try QCOW2Image(reading: storage)
        map = try QCOW2Map(image, source: storage, cacheLimit: cacheLimit, forWriting: true)
        writer = try QCOW2Writer(image, map: map, storage: storage, hasBacking: !backing.isEmpty)
        for place in 0..<places { writer.enter(place) }
        if let journal {
            adoption = try writer.use(journal, identity: 7, storage: storage, data: nil as Storage?)
            if case .refused(let why) = adoption { throw DiskError("refused: \(why)") }
        }
    }

    // MARK: reading

    func read(_ at: Int, _ length: Int) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: length)
        var done = 0
        while done < length {
            switch map.lookup(GuestOffset(UInt64(at + done)), length: UInt64(length - done)) {
            case .needs(let table): try supply(table)
            case .damaged(let damage): throw DiskError("\(damage)")
            case .extent(let extent):
                let count = Int(extent.length)
                switch extent.kind {
                case .data:
                    let part = try storage.readAll(at: extent.host, count: count, what: "data")
                    bytes.replaceSubrange(done..<done + count, with: part)
                case .zero, .zeroAllocated: break
                case .unallocated, .unallocatedReserved:
                    for i in 0..<count where at + done + i < backing.count { bytes[done + i] = backing[at + done + i] }
                case .compressed: throw DiskError("compressed")
                }
                done += count
            }
        }
        return bytes
    }

    private func supply(_ table: TableRead) throws {
        let bytes = try storage.read(at: table.host, count: Int(table.length))
        bytes.withUnsafeBytes { map.supply(table, $0) }
    }

    // MARK: writing

    private func help() throws {
        for want in writer.takePrerequisites() {
            if want == .writeBack { try flush() } else { try writer.satisfy(want, storage) }
        }
    }

    func write(_ at: Int, _ bytes: [UInt8]) throws {
        var done = 0
        while done < bytes.count {
            let guest = GuestOffset(UInt64(at + done))
            let left = bytes.count - done
            guard writer.isPrepared else {
                _ = writer.begin(guest, length: 1)
                try help()
                continue
            }
            switch map.lookupForWrite(guest, length: UInt64(left)) {
            case .needs(let table): try supply(table)
            case .damaged(let damage): throw DiskError("\(damage)")
            case .inPlace(let extent):
                try storage.write(at: extent.host, Array(bytes[done..<done + Int(extent.length)]))
                done += Int(extent.length)
            case .allocate(let length):
                done += try allocate(guest, Array(bytes[done..<done + Int(length)]))
            }
        }
    }

    /// How many bytes were written.
    private func allocate(_ guest: GuestOffset, _ bytes: [UInt8]) throws -> Int {
        turn = (turn + 1) % places
        switch writer.begin(guest, length: UInt64(bytes.count), at: turn) {
        case .inPlace: return 0
        case .busy: throw DiskError("busy, and no other write is in flight")
        case .wants: try help()
        case .needs(let table): try supply(table)
        case .failed(let error): throw DiskError("errno \(error)")
        case .granted(let ticket): return try use(ticket, guest, bytes)
        }
        return 0
    }

    private func use(_ ticket: AllocatingWrite, _ guest: GuestOffset, _ bytes: [UInt8]) throws -> Int {
        let inside = Int(guest - ticket.guest)
        let length = Int(ticket.length)
        let brought = min(bytes.count, length - inside)
        do {
            if ticket.fill == AllocatingWrite.CowFill.none {
                try storage.write(at: ticket.host + UInt64(inside), Array(bytes[..<brought]))
            } else {
                var whole = [UInt8](repeating: 0, count: length)
                if ticket.fill == .copy {
                    let there = min(length, size - Int(ticket.guest.bytes))
                    whole.replaceSubrange(0..<there, with: try read(Int(ticket.guest.bytes), there))
                }
                whole.replaceSubrange(inside..<inside + brought, with: bytes[..<brought])
                try storage.write(at: ticket.host, whole)
            }
        } catch {
            writer.finish(ticket, isWritten: false)
            throw error
        }
        writer.finish(ticket, isWritten: true)
        return brought
    }

    func zero(_ at: Int, _ length: Int, _ mode: ZeroMode) throws {
        var done = 0
        while done < length {
            switch writer.zero(GuestOffset(UInt64(at + done)), length: UInt64(length - done), mode) {
            case .done(let count): done += Int(count)
            case .write(let count):
                try write(at + done, [UInt8](repeating: 0, count: Int(count)))
                done += Int(count)
            case .busy: throw DiskError("busy, and no other write is in flight")
            case .wants: try help()
            case .needs(let table): try supply(table)
            case .failed(let error): throw DiskError("errno \(error)")
            }
        }
    }

    func flush() throws {
        let freed = try writer.writeBack(to: storage, data: nil as Storage?)
        try writer.release(freed, storage: storage, discards: false)
    }

    func close() throws {
        try writer.giveBackReserved(storage)
        try flush()
        // Freeing changes refcounts once more.
        try flush()
        try writer.trim(storage, startLength: startLength)
        writer.endJournal()
    }
}
