// The record of requests in flight is memory that the front-end keeps for the server that comes after this one. It has a
// part for each queue, as the protocol has it, and two of our own: changes of a QCOW2 image's mapping, and the image's file.
import LinuxIO
import QCOW2
import VhostUserWire
import Virtqueue

/// The shared record of requests in flight: a part for each queue.
final class InflightArea: Sendable {
    struct Layout: Sendable {
        let queues: Int
        let size: Int
        let isPacked: Bool
        let stride: Int
        /// Bytes behind the queues' parts: changes of the mapping that the disk lacks. See `MappingJournal`.
        let journalBytes: Int
        var queueBytes: Int { queues * stride }
        var bytes: Int { queueBytes + journalBytes + RecordOwner.bytes }

        init(queues: Int, size: Int, isPacked: Bool, most: Int, hasJournal: Bool) throws(Refusal) {
            guard queues > 0, queues <= most, size > 0, size <= 32768 else {
                throw Refusal("a record for \(queues) queues of \(size) entries")
            }
            self.queues = queues
            self.size = size
            self.isPacked = isPacked
            journalBytes = hasJournal ? MappingJournal.usualBytes : 0
            // Queues are of different workers: no cache line has two of them.
            stride = (InflightMemory.bytes(size: size, isPacked: isPacked) + 127) & ~127
        }
    }
    private let layout: Layout
    private let area: SharedArea

    init(_ layout: Layout, _ area: SharedArea) {
        self.layout = layout
        self.area = area
    }

    /// The part behind the queues', for an image that is written. Of a record that another version made, all that is
    /// there: its capacity is part of its layout.
    var journal: MappingJournal? {
        let rest = area.count - layout.queueBytes
        return MappingJournal(
            area.base + layout.queueBytes, bytes: owner == nil ? rest : rest - RecordOwner.bytes, keeping: self)
    }

    /// The last part: which image the record is about. Nil: another version made the record, without it.
    var owner: RecordOwner? {
        area.count == layout.bytes ? RecordOwner(area.base + area.count - RecordOwner.bytes) : nil
    }

    /// The record of one ring becomes that of a ring that never ran.
    func forget(_ index: Int) {
        guard index < layout.queues else { return }
        InflightMemory(base: area.base + index * layout.stride, bytes: layout.stride).forget()
    }

    func memory(of index: Int) throws(Refusal) -> InflightMemory {
        guard index < layout.queues else { throw Refusal("ring \(index) has no record of requests in flight") }
        return InflightMemory(base: area.base + index * layout.stride, bytes: layout.stride)
    }
}

/// Which file the image was that a record is about. A server that is killed may be followed by one whose image has the same
/// name and is another file: the guest must not get that one's bytes.
struct RecordOwner {
    static let bytes = 64

    private enum Field {
        static let magic = 0
        static let device = 8
        static let inode = 16
    }
    private static let magic: UInt64 = 0x3177_6e6f_6b6c_6271  // "qblkown1"

    private let base: UnsafeMutableRawPointer

    /// `base`: 8-aligned, zeros when new, mapped as long as this value is used.
    init?(_ base: UnsafeMutableRawPointer) {
        guard UInt(bitPattern: base) & 7 == 0 else { return nil }
        self.base = base
    }

    /// Nil: of no server, because it is new or its server ended in order.
    var file: FileIdentity? {
        guard acquire64(base + Field.magic) == Self.magic else { return nil }
        return FileIdentity(device: load64(base + Field.device), inode: load64(base + Field.inode))
    }

    func claim(_ file: FileIdentity) {
        store64(base + Field.device, file.device)
        store64(base + Field.inode, file.inode)
        release64(base + Field.magic, Self.magic)
    }

    func release() { release64(base + Field.magic, 0) }
}
