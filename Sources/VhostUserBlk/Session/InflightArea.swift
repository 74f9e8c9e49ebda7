// The record of requests in flight: memory that the front-end keeps for the next server. It has a part for each queue,
// as the protocol has it, and two that are this program's own: changes of a QCOW2 image's mapping, and the image's
// file.
import LinuxIO
import QCOW2
import VhostUserWire
import Virtqueue

/// The shared record of requests in flight: queues, journal, owner.
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
            // Queues may be of different workers, so no cache line has bytes of two.
            stride = (InflightMemory.bytes(size: size, isPacked: isPacked) + 127) & ~127
        }
    }
    private let layout: Layout
    private let area: SharedArea

    init(_ layout: Layout, _ area: SharedArea) {
        self.layout = layout
        self.area = area
    }

    /// The journal behind the queues' parts, for an image that is written. In a record that another version made, it is
    /// all that is there: its capacity is part of its layout.
    var journal: MappingJournal? {
        let rest = area.count - layout.queueBytes
        return unsafe MappingJournal(
            area.base + layout.queueBytes, bytes: owner == nil ? rest : rest - RecordOwner.bytes, keeping: self)
    }

    /// The last part: which image the record is about. Nil in a record that another version made without it.
    var owner: RecordOwner? {
        unsafe area.count == layout.bytes ? RecordOwner(area.base + area.count - RecordOwner.bytes) : nil
    }

    /// Makes the record of one ring that of a ring which never ran.
    func forget(_ index: Int) {
        guard index < layout.queues else { return }
        unsafe InflightMemory(base: area.base + index * layout.stride, bytes: layout.stride).forget()
    }

    func memory(of index: Int) throws(Refusal) -> InflightMemory {
        guard index < layout.queues else { throw Refusal("ring \(index) has no record of requests in flight") }
        return unsafe InflightMemory(base: area.base + index * layout.stride, bytes: layout.stride)
    }
}

/// Which file the image was that a record is about. The next server's image may have the same name and be another file:
/// the guest of a killed server must not get that file's bytes.
@safe struct RecordOwner {
    static let bytes = 64

    private enum Field {
        static let magic = 0
        static let device = 8
        static let inode = 16
    }
    private static let magic: UInt64 = 0x3177_6e6f_6b6c_6271  // "qblkown1"

    private let base: UnsafeMutableRawPointer

    /// `base`: aligned to 8 bytes, zeros in a new record, mapped as long as this value is used.
    init?(_ base: UnsafeMutableRawPointer) {
        guard UInt(bitPattern: base) & 7 == 0 else { return nil }
        unsafe self.base = unsafe base
    }

    /// The file; nil in a record that is new, or whose server ended in order.
    var file: FileIdentity? {
        guard unsafe acquire64(base + Field.magic) == Self.magic else { return nil }
        return unsafe FileIdentity(device: load64(base + Field.device), inode: load64(base + Field.inode))
    }

    func claim(_ file: FileIdentity) {
        unsafe store64(base + Field.device, file.device)
        unsafe store64(base + Field.inode, file.inode)
        unsafe release64(base + Field.magic, Self.magic)
    }

    func release() { unsafe release64(base + Field.magic, 0) }
}
