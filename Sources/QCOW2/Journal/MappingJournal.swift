// A record of mapping changes in memory that outlives the process. A process that is killed takes the mapping in its
// memory along, and with it what was answered since the last write-back. So each change stands here, too, until the
// disk has it: the next process takes it from there, and the guest sees a pause.

import DiskTypes
import Synchronization

/// A ring of changed entries in shared memory. Used under the writer's lock by one process at a time.
///
/// 64 bytes of head (`Head`), then records of 32 bytes: guest cluster, count, word, bits. A count above 1 is a run: the same
/// word for each cluster, or host clusters in a row. Others may scribble on the memory: this process goes by its own numbers
/// and reads records only when it takes them over, each once.
@safe public final class MappingJournal: @unchecked Sendable {
    /// A good size: a write-back is under way before half of it is full.
    public static let usualBytes = 2 << 20

    /// Clusters from `cluster` on got this entry; `bits` only with extended entries.
    struct Record: Equatable {
        var cluster: UInt64
        var count: UInt64
        var word: UInt64
        var bits: UInt64

        /// The word of the run's cluster `i`: those with a place lie in a row.
        func word(_ i: UInt64, _ clusterSize: UInt64) -> UInt64 {
            word & MappingWord.copied != 0 ? word &+ i &* clusterSize : word
        }
    }

    private enum Head {
        static let magic = 0
        static let identity = 8
        static let tail = 16
        static let head = 24
        /// 0: closed cleanly. 1: in use, or its process was killed. 2: as 1, and an fsync had failed.
        static let state = 32
        static let bytes = 64
    }
    private static let magic: UInt64 = 0x3170_616d_6b6c_6271  // "qblkmap1"
    private static let recordBytes = 32

    private nonisolated(unsafe) let base: UnsafeMutableRawPointer
    private let keeper: AnyObject
    let capacity: UInt64
    /// Records are numbered: those that count, and those that a write-back has taken and not finished.
    private(set) var tail: UInt64 = 0
    private(set) var head: UInt64 = 0
    private var taken: UInt64 = 0
    /// What merging needs, so that nothing is read back.
    private var last: Record?

    /// `memory`: 8-aligned, zeroed when new, mapped as long as `keeper` lives. Nil when it is too small.
    public init?(_ memory: UnsafeMutableRawPointer, bytes: Int, keeping keeper: AnyObject) {
        guard bytes >= Head.bytes + 1024 * Self.recordBytes else { return nil }
        unsafe base = memory
        self.keeper = keeper
        capacity = UInt64((bytes - Head.bytes) / Self.recordBytes)
    }

    private func load(_ offset: Int) -> UInt64 {
        unsafe (base + offset).assumingMemoryBound(to: Atomic<UInt64>.self).pointee.load(ordering: .acquiring)
    }
    private func store(_ offset: Int, _ value: UInt64) {
        unsafe (base + offset).assumingMemoryBound(to: Atomic<UInt64>.self).pointee.store(value, ordering: .releasing)
    }

    // MARK: taking over

    enum Left {
        /// Never used, or closed in order.
        case nothing
        /// The last one was killed; every change that the disk may lack, in order. `hasFailed`: after a sync that failed.
        case records([Record], hasFailed: Bool)
        /// Of another image, or scribbled on.
        case nonsense
    }

    /// What the process before this one left, to go on with. `identity` tells images apart.
    func left(_ identity: UInt64) -> Left {
        let magic = load(Head.magic)
        if magic == 0 { return .nothing }
        let (tail, head, state) = (load(Head.tail), load(Head.head), load(Head.state))
        guard magic == Self.magic, tail <= head, head - tail <= capacity else { return .nonsense }
        let isOurs = load(Head.identity) == identity
        // A guest that has moved brings an empty journal of the image elsewhere.
        if tail == head, state == 0 || (state == 1 && !isOurs) { return .nothing }
        guard isOurs, state != 0 else { return .nonsense }
        (self.tail, self.head, taken, last) = (tail, head, tail, nil)
        return .records((0..<(head - tail)).map { read(tail + $0) }, hasFailed: state != 1)
    }

    private func place(_ number: UInt64) -> Int { Head.bytes + Int(number % capacity) * Self.recordBytes }

    private func read(_ number: UInt64) -> Record {
        let at = place(number)
        return Record(cluster: load(at), count: load(at + 8), word: load(at + 16), bits: load(at + 24))
    }

    /// Begins with nothing.
    func start(_ identity: UInt64) {
        store(Head.magic, 0)
        (tail, head, taken, last) = (0, 0, 0, nil)
        store(Head.tail, 0)
        store(Head.head, 0)
        store(Head.identity, identity)
        store(Head.state, 1)
        store(Head.magic, Self.magic)
    }

    /// An fsync has failed: a successor must not promise anything either.
    func fail() { store(Head.state, 2) }
    /// The disk has everything, and no write is under way.
    func end() { store(Head.state, 0) }

    // MARK: writing

    var free: UInt64 { capacity - (head - tail) }
    var isHalfFull: Bool { head - tail > capacity / 2 }

    /// There must be a free one.
    func append(_ cluster: UInt64, word: UInt64, bits: UInt64, clusterSize: UInt64) {
        // Once a record is taken it may go at any moment: nothing is added to it.
        if var run = last, head > taken {
            if run.cluster &+ run.count == cluster, run.bits == bits, run.word(run.count, clusterSize) == word {
                run.count += 1
                last = run
                return store(place(head - 1) + 8, run.count)
            }
            if run.cluster == cluster, run.count == 1, run.word == word {
                run.bits = bits
                last = run
                return store(place(head - 1) + 24, bits)
            }
        }
        guard head - tail < capacity else { return }
        let at = place(head)
        store(at, cluster)
        store(at + 8, 1)
        store(at + 16, word)
        store(at + 24, bits)
        head += 1
        store(Head.head, head)
        last = Record(cluster: cluster, count: 1, word: word, bits: bits)
    }

    /// A write-back takes everything so far.
    func take() { taken = head }
    /// The disk has what was taken.
    func dropTaken() {
        tail = taken
        store(Head.tail, tail)
    }
    /// The disk may lack it.
    func putBack() { taken = tail }
}
