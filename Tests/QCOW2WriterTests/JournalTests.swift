// A process that is killed loses nothing that it has answered: its storage stops anywhere, what is in the journal at
// that moment goes to the next writer, and the disk must read as if nothing had happened.
import DiskTypes
import Foundation
import QCOW2
import TestKit
import Testing

/// Memory that outlives writers.
final class JournalMemory {
    let start: UnsafeMutableRawPointer
    let bytes: Int

    /// The smallest: it is full all the time.
    init(bytes: Int = 64 + 1024 * 32) {
        self.bytes = bytes
        start = .allocate(byteCount: bytes, alignment: 64)
        start.initializeMemory(as: UInt8.self, repeating: 0, count: bytes)
    }
    deinit { start.deallocate() }

    var content: [UInt8] {
        get { Array(UnsafeRawBufferPointer(start: start, count: bytes)) }
        set { UnsafeMutableRawBufferPointer(start: start, count: bytes).copyBytes(from: newValue) }
    }
    func journal() throws -> MappingJournal { try #require(MappingJournal(start, bytes: bytes, keeping: self)) }
}

/// A storage whose user is killed at one of its steps: from there on nothing happens any more.
final class CrashingStorage: ResizableStorage {
    let memory: MemoryStorage
    private let journal: JournalMemory
    /// Steps to live, and the journal at the end.
    var left: Int
    private(set) var legacy: [UInt8]?
    var failsSync = false

    init(_ bytes: [UInt8], journal: JournalMemory, steps: Int) {
        memory = MemoryStorage(bytes)
        self.journal = journal
        left = steps
    }

    private func step() throws(ImageError) {
        if left == 0, legacy == nil { legacy = journal.content }
        guard legacy == nil else { throw ImageError(.system, "killed") }
        left -= 1
    }

    var length: UInt64 { memory.length }
    var canGrow: Bool { true }
    func read(at offset: HostOffset, count: Int) throws(ImageError) -> [UInt8] {
        guard legacy == nil else { throw ImageError(.system, "killed") }
        return try memory.read(at: offset, count: count)
    }
    func write(at offset: HostOffset, _ bytes: [UInt8]) throws(ImageError) {
        try step()
        try memory.write(at: offset, bytes)
    }
    func sync() throws(ImageError) {
        if failsSync { throw ImageError(.system, "cannot sync") }
        try step()
    }
    func truncate(to newLength: UInt64) throws(ImageError) {
        try step()
        try memory.truncate(to: newLength)
    }
    func discard(at offset: HostOffset, length: UInt64) {}
}

@Suite("A killed writer", .disabled(if: WriterShape.missing != nil, "\(WriterShape.missing ?? "")"))
struct JournalTests {
    /// Kills of each shape. More when hunting: QBLK_KILLS.
    static let kills = ProcessInfo.processInfo.environment["QBLK_KILLS"].flatMap { Int($0) } ?? 6

    @Test("loses nothing that it has answered", arguments: WriterShape.all)
    func losesNothing(shape: WriterShape) throws {
        try Scratch.withFolder { folder in
            let made = try shape.make(in: folder)
            let seed = WriterModelTests.seed
            var dice = SeededRandom(seed)
            var model = made.guest
            var bytes = made.image
            let memory = JournalMemory()
            for life in 0..<Self.kills {
                let place = "seed \(seed), life \(life)"
                let storage = CrashingStorage(bytes, journal: memory, steps: dice.below(1 << (2 + dice.below(8))))
                try live(storage, memory, made.backing, &model, &dice, place)
                if let legacy = storage.legacy { memory.content = legacy }
                bytes = storage.memory.bytes
                let report = try ImageCheck.check(MemorySource(bytes))
                try #require(report.verdict != .corrupt, "\(place): \(report.findings.first?.line ?? "")")
            }
            try settle(bytes, memory, made.backing, model, folder, "seed \(seed)")
        }
    }

    /// An image with a change in its journal that the disk lacks, as a killed writer leaves them.
    private func left(_ folder: String) throws -> (image: [UInt8], memory: JournalMemory) {
        let made = try WriterShape.all[0].make(in: folder)
        let storage = MemoryStorage(made.image)
        let memory = JournalMemory()
        let disk = try OfflineDisk(storage, journal: memory.journal())
        try disk.write(0, [UInt8](repeating: 5, count: 4096))
        return (storage.bytes, memory)
    }

    private func use(_ memory: JournalMemory, _ image: [UInt8], identity: UInt64) throws -> JournalReplay {
        let storage = MemoryStorage(image)
        let disk = try OfflineDisk(storage)
        return try disk.writer.use(memory.journal(), identity: identity, storage: storage, data: nil as MemoryStorage?)
    }

    @Test("leaves changes that are taken over once, and only by its own image")
    func belongsToItsImage() throws {
        try Scratch.withFolder { folder in
            let (image, memory) = try left(folder)
            let content = memory.content
            #expect(try use(memory, image, identity: 7) == .changes(1))
            memory.content = content
            guard case .refused = try use(memory, image, identity: 8) else {
                Issue.record("another image has taken them over")
                return
            }
            #expect(try use(memory, image, identity: 8) == .fresh)
        }
    }

    /// The front-end goes and comes back to a writer that cannot promise anything any more.
    @Test("or one whose sync has failed brings no mapping to the disk for the sake of a journal")
    func failedSyncStaysFailed() throws {
        try Scratch.withFolder { folder in
            let made = try WriterShape.all[0].make(in: folder)
            let (first, second) = (JournalMemory(), JournalMemory())
            let storage = CrashingStorage(made.image, journal: first, steps: .max)
            let disk = try OfflineDisk(storage, journal: first.journal())
            try disk.write(0, [UInt8](repeating: 5, count: 4096))
            storage.failsSync = true
            #expect(throws: ImageError.self) { try disk.flush() }
            storage.failsSync = false
            let before = storage.memory.bytes
            for memory in [first, second] {
                let adoption = try disk.writer.use(
                    memory.journal(), identity: 7, storage: storage, data: nil as CrashingStorage?)
                #expect(adoption == .afterFailure(0))
                let isUntouched = storage.memory.bytes == before
                #expect(isUntouched)
                // And its successor, should it be killed, hears of it.
                guard case .afterFailure = try use(memory, before, identity: 7) else {
                    Issue.record("the failure is forgotten")
                    return
                }
            }
        }
    }

    @Test("that had nothing to do leaves nothing, also to an image elsewhere")
    func emptyIsNothing() throws {
        try Scratch.withFolder { folder in
            let made = try WriterShape.all[0].make(in: folder)
            let memory = JournalMemory()
            #expect(try use(memory, made.image, identity: 7) == .fresh)
            #expect(try use(memory, made.image, identity: 8) == .fresh)
        }
    }

    @Test("whose journal was scribbled on is refused or taken over, and nothing breaks")
    func scribbledOn() throws {
        try Scratch.withFolder { folder in
            let (image, memory) = try left(folder)
            let content = memory.content
            var dice = SeededRandom(WriterModelTests.seed)
            for _ in 0..<500 {
                memory.content = content
                for _ in 0...dice.below(3) {
                    let at = dice.below(16) * 8
                    let value = dice.below(3) == 0 ? dice.next() : UInt64(dice.below(1 << 20)) << UInt64(dice.below(40))
                    memory.start.storeBytes(of: value, toByteOffset: at, as: UInt64.self)
                }
                _ = try use(memory, image, identity: 7)
            }
        }
    }

    /// Opens, takes over, writes until it is killed.
    private func live(
        _ storage: CrashingStorage, _ memory: JournalMemory, _ backing: [UInt8], _ model: inout [UInt8],
        _ dice: inout SeededRandom, _ place: String
    ) throws {
        let disk: OfflineDisk<CrashingStorage>
        do {
            disk = try OfflineDisk(
                storage, backing: backing, cacheLimit: dice.below(2) == 0 ? 1 : 1 << 20, journal: memory.journal())
        } catch {
            // Killed while it took over.
            guard storage.legacy != nil else { throw error }
            return
        }
        let steps = storage.left
        storage.left = .max
        let now = try disk.read(0, disk.size)
        if now != model {
            let at = zip(now, model).enumerated().first { $1.0 != $1.1 }?.offset ?? -1
            throw DiskError("\(place), \(disk.adoption): byte \(at) is \(now[at]), not \(model[at])")
        }
        storage.left = steps
        for step in 0..<200 {
            let before = model
            // The same dice twice: what the killed operation would have made of the disk.
            var ghost = dice
            do { try WriterModelTests.act(disk, &model, &dice, "\(place), step \(step)") } catch {
                guard storage.legacy != nil else { throw error }
                return try accept(storage, memory, backing, before, &model, &ghost, place)
            }
        }
        // Killed between two requests: without effect.
        storage.left = 0
        _ = try? disk.flush()
    }

    /// The operation that was cut off has left each sector old or new.
    private func accept(
        _ storage: CrashingStorage, _ memory: JournalMemory, _ backing: [UInt8], _ before: [UInt8],
        _ model: inout [UInt8], _ ghost: inout SeededRandom, _ place: String
    ) throws {
        let copy = JournalMemory()
        copy.content = storage.legacy ?? []
        let next = try OfflineDisk(MemoryStorage(storage.memory.bytes), backing: backing, journal: copy.journal())
        let now = try next.read(0, next.size)
        let wanted = WriterModelTests.result(before, &ghost)
        for at in stride(from: 0, to: now.count, by: 512) where now[at..<at + 512] != before[at..<at + 512] {
            guard now[at..<at + 512] == wanted[at..<at + 512] else {
                throw DiskError("\(place), \(next.adoption): sector \(at / 512) is neither old nor new")
            }
        }
        model = now
    }

    /// The last one closes in order: no error, no leak that a repair would not take, the right bytes for QEMU.
    private func settle(
        _ bytes: [UInt8], _ memory: JournalMemory, _ backing: [UInt8], _ model: [UInt8], _ folder: String,
        _ place: String
    ) throws {
        let storage = MemoryStorage(bytes)
        let disk = try OfflineDisk(storage, backing: backing, journal: memory.journal())
        try disk.close()
        let left = try ImageCheck.repair(storage, .leaks)
        #expect(left.verdict == .clean, "\(place): \(left.findings.first?.line ?? "")")
        try WriterModelTests.judge(storage, model, folder, place)
    }
}
