// Formats/virtio-blk/layout.tsv is the truth about the bytes; the constants are held against it.
import DiskTypes
import Glibc
import Testing
@testable import Virtqueue

struct LayoutTests {
    /// Name to offset (or value, or bit) and width.
    static let table: [String: (offset: Int, width: Int)] = {
        var rows: [String: (offset: Int, width: Int)] = [:]
        let path = #filePath.split(separator: "/").dropLast(3).joined(separator: "/")
        guard let file = fopen("/" + path + "/formats/virtio-blk/layout.tsv", "r") else { return [:] }
        defer { fclose(file) }
        var line = [CChar](repeating: 0, count: 4096)
        while fgets(&line, 4096, file) != nil {
            let text = String(decoding: line.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
            let fields = text.split(separator: "\t")
            guard fields.count > 2, let offset = Int(fields[1]), let width = Int(fields[2]) else { continue }
            rows[String(fields[0])] = (offset, width)
        }
        return rows
    }()

    static let constants: [(String, Int)] = [
        ("virtio_blk_req.type", VirtioBlk.Header.type), ("virtio_blk_req.ioprio", VirtioBlk.Header.priority),
        ("virtio_blk_req.sector", VirtioBlk.Header.sector),
        ("virtio_blk_discard_write_zeroes.sector", VirtioBlk.Segment.sector),
        ("virtio_blk_discard_write_zeroes.num_sectors", VirtioBlk.Segment.sectorCount),
        ("virtio_blk_discard_write_zeroes.flags", VirtioBlk.Segment.flags),
        ("virtio_blk_config.capacity", VirtioBlk.Config.capacity),
        ("virtio_blk_config.size_max", VirtioBlk.Config.sizeMax),
        ("virtio_blk_config.seg_max", VirtioBlk.Config.segMax),
        ("virtio_blk_config.geometry", VirtioBlk.Config.geometry),
        ("virtio_blk_config.blk_size", VirtioBlk.Config.blockSize),
        ("virtio_blk_config.physical_block_exp", VirtioBlk.Config.physicalBlockExponent),
        ("virtio_blk_config.alignment_offset", VirtioBlk.Config.alignmentOffset),
        ("virtio_blk_config.min_io_size", VirtioBlk.Config.minIOSize),
        ("virtio_blk_config.opt_io_size", VirtioBlk.Config.optIOSize),
        ("virtio_blk_config.writeback", VirtioBlk.Config.writeback),
        ("virtio_blk_config.num_queues", VirtioBlk.Config.queueCount),
        ("virtio_blk_config.max_discard_sectors", VirtioBlk.Config.maxDiscardSectors),
        ("virtio_blk_config.max_discard_seg", VirtioBlk.Config.maxDiscardSegments),
        ("virtio_blk_config.discard_sector_alignment", VirtioBlk.Config.discardAlignment),
        ("virtio_blk_config.max_write_zeroes_sectors", VirtioBlk.Config.maxWriteZeroesSectors),
        ("virtio_blk_config.max_write_zeroes_seg", VirtioBlk.Config.maxWriteZeroesSegments),
        ("virtio_blk_config.write_zeroes_may_unmap", VirtioBlk.Config.writeZeroesMayUnmap),
        ("status.OK", Int(RequestStatus.ok.rawValue)), ("status.IOERR", Int(RequestStatus.ioError.rawValue)),
        ("status.UNSUPP", Int(RequestStatus.unsupported.rawValue)),
        ("virtq_avail.idx", RingLayout.availIndexOffset), ("virtq_avail.ring", RingLayout.availRingOffset),
        ("virtq_used.idx", RingLayout.usedIndexOffset), ("virtq_used.ring", RingLayout.usedRingOffset),
        ("pvirtq_event_suppress.flags", RingLayout.eventFlagsOffset),
        ("QueueRegionSplit.features", InflightSplit.Field.features),
        ("QueueRegionSplit.version", InflightSplit.Field.version),
        ("QueueRegionSplit.desc_num", InflightSplit.Field.count),
        ("QueueRegionSplit.last_batch_head", InflightSplit.Field.lastBatchHead),
        ("QueueRegionSplit.used_idx", InflightSplit.Field.usedIndex),
        ("QueueRegionSplit.desc", InflightSplit.headerBytes),
        ("DescStateSplit.inflight", InflightSplit.Entry.inflight), ("DescStateSplit.next", InflightSplit.Entry.next),
        ("DescStateSplit.counter", InflightSplit.Entry.counter),
        ("QueueRegionPacked.features", InflightPacked.Field.features),
        ("QueueRegionPacked.version", InflightPacked.Field.version),
        ("QueueRegionPacked.desc_num", InflightPacked.Field.count),
        ("QueueRegionPacked.free_head", InflightPacked.Field.freeHead),
        ("QueueRegionPacked.old_free_head", InflightPacked.Field.oldFreeHead),
        ("QueueRegionPacked.used_idx", InflightPacked.Field.usedIndex),
        ("QueueRegionPacked.old_used_idx", InflightPacked.Field.oldUsedIndex),
        ("QueueRegionPacked.used_wrap_counter", InflightPacked.Field.usedWrap),
        ("QueueRegionPacked.old_used_wrap_counter", InflightPacked.Field.oldUsedWrap),
        ("QueueRegionPacked.desc", InflightPacked.headerBytes),
        ("DescStatePacked.inflight", InflightPacked.Entry.inflight),
        ("DescStatePacked.next", InflightPacked.Entry.next), ("DescStatePacked.last", InflightPacked.Entry.last),
        ("DescStatePacked.num", InflightPacked.Entry.count), ("DescStatePacked.counter", InflightPacked.Entry.counter),
        ("DescStatePacked.id", InflightPacked.Entry.id), ("DescStatePacked.flags", InflightPacked.Entry.flags),
        ("DescStatePacked.len", InflightPacked.Entry.length), ("DescStatePacked.addr", InflightPacked.Entry.address),
    ]

    @Test(arguments: constants) func everyOffsetIsTheTables(name: String, value: Int) throws {
        #expect(try #require(Self.table[name]).offset == value)
    }

    static let bits: [(String, UInt64)] = [
        ("SEG_MAX", VirtioBlk.Feature.segMax), ("RO", VirtioBlk.Feature.readOnly),
        ("BLK_SIZE", VirtioBlk.Feature.blockSize), ("FLUSH", VirtioBlk.Feature.flush),
        ("TOPOLOGY", VirtioBlk.Feature.topology), ("CONFIG_WCE", VirtioBlk.Feature.configWriteback),
        ("MQ", VirtioBlk.Feature.multiQueue), ("DISCARD", VirtioBlk.Feature.discard),
        ("WRITE_ZEROES", VirtioBlk.Feature.writeZeroes), ("NOTIFY_ON_EMPTY", VirtioBlk.Feature.notifyOnEmpty),
        ("LOG_ALL", VirtioBlk.Feature.logAll), ("ANY_LAYOUT", VirtioBlk.Feature.anyLayout),
        ("INDIRECT_DESC", VirtioBlk.Feature.indirect), ("EVENT_IDX", VirtioBlk.Feature.eventIndex),
        ("PROTOCOL_FEATURES", VirtioBlk.Feature.protocolFeatures), ("VERSION_1", VirtioBlk.Feature.version1),
        ("RING_PACKED", VirtioBlk.Feature.ringPacked),
    ]

    @Test(arguments: bits) func everyFeatureBitIsTheTables(name: String, word: UInt64) throws {
        #expect(1 << UInt64(try #require(Self.table["feature." + name]).offset) == word)
    }

    @Test func structuresAreAsLongAsTheirFields() throws {
        func end(_ prefix: String) -> Int {
            Self.table.filter { $0.key.hasPrefix(prefix + ".") }.map { $0.value.offset + $0.value.width }.max() ?? 0
        }
        #expect(end("virtio_blk_req") == VirtioBlk.Header.bytes)
        #expect(end("virtio_blk_discard_write_zeroes") == VirtioBlk.Segment.bytes)
        #expect(end("virtio_blk_config") == VirtioBlk.Config.bytes)
        #expect(end("virtq_desc") == RingLayout.descriptorBytes)
        #expect(end("pvirtq_desc") == RingLayout.descriptorBytes)
        #expect(end("virtq_used_elem") == RingLayout.usedElementBytes)
        #expect(end("pvirtq_event_suppress") == RingLayout.eventBytes)
        #expect(end("DescStateSplit") == InflightSplit.entryBytes)
        #expect(end("DescStatePacked") == InflightPacked.entryBytes)
    }
}
