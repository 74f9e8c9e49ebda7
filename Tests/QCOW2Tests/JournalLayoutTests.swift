// formats/mapping-journal/layout.tsv is the truth about the memory that outlives a killed writer: another version of the
// program may have written it. A journal is driven here, and its bytes are read and written by the table.

import Testing

@testable import QCOW2

@Suite struct JournalLayoutTests {
    /// Zeroed memory with a journal in it.
    final class Memory {
        static let records = 1024
        let bytes: Int
        private let base: UnsafeMutableRawPointer

        init() throws {
            bytes = try JournalLayoutTests.size("head") + Self.records * JournalLayoutTests.size("record")
            base = .allocate(byteCount: bytes, alignment: 8)
            base.initializeMemory(as: UInt8.self, repeating: 0, count: bytes)
        }
        deinit { base.deallocate() }

        func journal() throws -> MappingJournal { try #require(MappingJournal(base, bytes: bytes, keeping: self)) }

        private func place(_ field: String, _ record: Int) throws -> UnsafeMutableRawPointer {
            let row = try JournalLayoutTests.row(field)
            #expect(row.width == 8)
            let start = field.hasPrefix("record.") ? try JournalLayoutTests.start(of: record) : 0
            return base + start + row.offset
        }
        func word(_ field: String, of record: Int = 0) throws -> UInt64 {
            try place(field, record).load(as: UInt64.self)
        }
        func set(_ field: String, _ value: UInt64, of record: Int = 0) throws {
            try place(field, record).storeBytes(of: value, as: UInt64.self)
        }
    }

    static func row(_ name: String) throws -> LayoutRow { try #require(LayoutTable.journal.first { $0.name == name }) }
    /// Bytes of a structure: the end of its last field.
    static func size(_ structure: String) throws -> Int {
        let fields = LayoutTable.journal.filter { $0.name.hasPrefix(structure + ".") }
        return try #require(fields.map { $0.offset + $0.width }.max())
    }
    static func start(of record: Int) throws -> Int { try size("head") + record * size("record") }

    /// "qblkmap1", as the bytes stand in memory.
    static let magic = "qblkmap1".utf8.reversed().reduce(0 as UInt64) { $0 << 8 | UInt64($1) }
    static let data = MappingWord.copied | 0x5_0000

    @Test func theHeadIsTheTables() throws {
        let memory = try Memory()
        let journal = try memory.journal()
        journal.start(0x1234_5678_9abc_def0)
        #expect(try memory.word("head.magic") == Self.magic.littleEndian)
        #expect(try memory.word("head.identity") == 0x1234_5678_9abc_def0)
        #expect(try memory.word("head.state") == 1)
        for cluster in 0..<3 { journal.append(UInt64(cluster * 7), word: Self.data, bits: 0, clusterSize: 65536) }
        #expect(try memory.word("head.tail") == 0 && memory.word("head.head") == 3)
        journal.take()
        journal.dropTaken()
        #expect(try memory.word("head.tail") == 3 && memory.word("head.head") == 3)
        journal.fail()
        #expect(try memory.word("head.state") == 2)
        journal.end()
        #expect(try memory.word("head.state") == 0)
    }

    @Test func aRecordIsTheTables() throws {
        let memory = try Memory()
        let journal = try memory.journal()
        journal.start(1)
        journal.append(9, word: 0, bits: 0, clusterSize: 65536)
        // Three clusters in a row in the file are one record.
        for i in 0..<3 as Range<UInt64> {
            journal.append(100 + i, word: Self.data + i * 65536, bits: 0xf0, clusterSize: 65536)
        }
        #expect(try memory.word("head.head") == 2)
        #expect(try memory.word("record.cluster", of: 1) == 100)
        #expect(try memory.word("record.count", of: 1) == 3)
        #expect(try memory.word("record.word", of: 1) == Self.data)
        #expect(try memory.word("record.bits", of: 1) == 0xf0)
    }

    @Test func theCapacityIsTheReadmes() throws {
        let memory = try Memory()
        #expect(try memory.journal().capacity == UInt64(Memory.records))
        let usual = try (MappingJournal.usualBytes - Self.size("head")) / Self.size("record")
        #expect(MappingJournal.usualBytes == 2 << 20 && usual == 65534)
    }

    @Test func theRecordBehindTheLastPlaceIsTheFirstAgain() throws {
        let memory = try Memory()
        let journal = try memory.journal()
        journal.start(1)
        for cluster in 0..<Memory.records { journal.append(UInt64(2 * cluster), word: 0, bits: 0, clusterSize: 65536) }
        journal.take()
        journal.dropTaken()
        journal.append(0x77, word: 0, bits: 0, clusterSize: 65536)
        #expect(try memory.word("record.cluster") == 0x77)
        #expect(try memory.word("head.head") == UInt64(Memory.records) + 1)
    }

    @Test func bytesThatTheTableDescribesAreReplayed() throws {
        let memory = try Memory()
        for (field, value) in [
            ("head.magic", Self.magic.littleEndian), ("head.identity", 42), ("head.tail", 1024), ("head.head", 1025),
            ("head.state", 2), ("record.cluster", 5), ("record.count", 2), ("record.word", Self.data),
            ("record.bits", 3),
        ] as [(String, UInt64)] { try memory.set(field, value) }
        guard case .records(let records, let hasFailed) = try memory.journal().left(42) else {
            Issue.record("not taken for a journal")
            return
        }
        #expect(hasFailed)
        #expect(records == [MappingJournal.Record(cluster: 5, count: 2, word: Self.data, bits: 3)])
        #expect(records[0].word(1, 65536) == Self.data + 65536)
    }
}
