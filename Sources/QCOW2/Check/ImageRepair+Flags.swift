// The part of a repair that puts COPIED flags right, in one pass over the L1 table and the L2 tables. They follow the
// refcounts as those are once the repair is done.

import DiskTypes

extension ImageRepair {
    /// Sets and clears COPIED in the active L1 table and its L2 tables, and takes it off compressed entries everywhere.
    func fixFlags() throws(ImageError) {
        try fixL1()
        for cluster in checker.tables.keys.sorted() {
            // A table that shares its cluster with something else is not written: that would change the other.
            guard let use = checker.tables[cluster], !use.isOverlapped else { continue }
            try checker.stopIfInterrupted()
            let place = HostOffset(cluster << checker.clusterBits)
            let old = try storage.read(at: place, count: Int(checker.clusterSize))
            let new = try fixed(old, isActive: use.activeUses > 0)
            if let new { try writeChanges(old, new, at: place) }
        }
        try endStep()
    }

    private func fixL1() throws(ImageError) {
        let piece: UInt64 = 65536
        let bytes = UInt64(header.l1Entries) * 8
        var done: UInt64 = 0
        while done < bytes {
            let old = try storage.read(at: header.l1Offset + done, count: Int(min(piece, bytes - done)))
            if old.isEmpty { return }
            var new = old
            for (index, raw) in tableWords(old).enumerated() where raw != 0 {
                let offset = MappingWord(raw).offset
                guard offset & (checker.clusterSize - 1) == 0, checker.tables[offset >> checker.clusterBits] != nil
                else { continue }
                try put(raw, HostOffset(offset), into: &new, at: index * 8)
            }
            try writeChanges(old, new, at: header.l1Offset + done)
            done += piece
        }
    }

    /// The table with its flags right; nil when they are.
    private func fixed(_ old: [UInt8], isActive: Bool) throws(ImageError) -> [UInt8]? {
        var new: [UInt8]?
        let width = Int(header.l2EntryBytes)
        for (index, raw) in tableWords(old).enumerated() where raw != 0 && (index * 8) % width == 0 {
            let word = MappingWord(raw)
            if word.isCompressed {
                guard raw & MappingWord.copied != 0 else { continue }
                if new == nil { new = old }
                new?.replaceSubrange(index * 8..<index * 8 + 8, with: bigEndian(raw & ~MappingWord.copied))
                continue
            }
            guard isActive, !checker.rules.external, word.offset != 0, word.offset < checker.fileLength,
                word.offset & (checker.clusterSize - 1) == 0
            else { continue }
            let isRight =
                (raw & MappingWord.copied != 0) == (try wanted(word.offset >> checker.clusterBits) == 1)
            if isRight { continue }
            if new == nil { new = old }
            if var table = new {
                new = nil
                try put(raw, HostOffset(word.offset), into: &table, at: index * 8)
                new = table
            }
        }
        return new
    }

    private func put(
        _ raw: UInt64, _ host: HostOffset, into table: inout [UInt8], at place: Int
    ) throws(ImageError) {
        let isAlone = try wanted(host.bytes >> checker.clusterBits) == 1
        let word = isAlone ? raw | MappingWord.copied : raw & ~MappingWord.copied
        if word != raw { table.replaceSubrange(place..<place + 8, with: bigEndian(word)) }
    }
}
