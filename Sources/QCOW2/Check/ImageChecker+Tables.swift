// L1 tables and L2 tables. An L2 table that a hundred snapshots share is read once and counts a hundred times; so an
// image whose tables all name each other costs no more than its size.

import DiskTypes

extension ImageChecker {
    /// Counts the L2 tables of an L1 table.
    func walkL1(_ root: L1Root) throws(ImageError) {
        try forEachWord(at: root.offset, entries: root.entries) { index, raw throws(ImageError) in
            let word = MappingWord(raw)
            if raw & MappingWord.l1Reserved != 0 {
                findBroken("entry \(index) of \(root.name) has reserved bits set", at: root.offset)
            }
            let table = HostOffset(word.offset)
            guard table.bytes != 0 else {
                if raw & MappingWord.l1Reserved == 0 {
                    findBroken("entry \(index) of \(root.name) has flags but no table", at: root.offset)
                }
                return
            }
            guard table.bytes & (clusterSize - 1) == 0 else {
                markDangling(table, bytes: clusterSize)
                return findBroken("entry \(index) of \(root.name) is not cluster aligned", at: table)
            }
            let claimed = try claim(
                table, bytes: clusterSize, as: .table, "the L2 table of entry \(index) of \(root.name)")
            guard claimed == .counted else { return }
            let cluster = table.bytes >> clusterBits
            var use = tables[cluster] ?? TableUse()
            use.weight += 1
            if use.weight == 1 || (root.isActive && use.activeUses == 0) {
                (use.index, use.diskSize) = (index, root.diskSize)
            }
            if root.isActive { use.activeUses += 1 }
            tables[cluster] = use
            if root.isActive { try checkCopied(raw, table, "L2 table of L1 entry \(index)") }
        }
    }

    /// Reads every L2 table once, in the order of the file.
    func walkTables() throws(ImageError) {
        let perCluster = header.hasSubclusters ? 2 : 1
        for cluster in tables.keys.sorted() {
            guard let use = tables[cluster] else { continue }
            let words = tableWords(try read(at: HostOffset(cluster << clusterBits), count: Int(clusterSize)))
            var walk = TableWalk(table: HostOffset(cluster << clusterBits), use: use)
            for first in stride(from: 0, to: words.count - words.count % perCluster, by: perCluster) {
                let bitmap = perCluster == 2 ? words[first + 1] : 0
                if words[first] == 0, bitmap == 0 { continue }
                walk.slot = UInt64(first / perCluster)
                try checkEntry(words[first], bitmap, &walk)
            }
            report.allocatedClusters &+= walk.allocated &* use.activeUses
            report.fragmentedClusters &+= walk.fragmented &* use.activeUses
            report.compressedClusters &+= walk.compressed &* use.activeUses
            try advance(of: tables.count)
        }
    }

    /// COPIED says that the refcount is exactly 1, in the active state. A flag too many makes a writer overwrite what others
    /// share; one too few only makes it copy. Held against the stored refcount, which is what writers go by.
    func checkCopied(_ raw: UInt64, _ host: HostOffset, _ what: @autoclosure () -> String) throws(ImageError) {
        let count = try stored.count(of: host.bytes >> clusterBits)
        let isCopied = raw & MappingWord.copied != 0
        guard isCopied != (count == 1) else { return }
        hasWrongFlags = true
        find(.corruption, "COPIED flag of \(what()): \(isCopied ? "set" : "clear"), refcount=\(count)", at: host)
    }
}

/// Where the walk through an L2 table is, and what it has added up.
struct TableWalk {
    let table: HostOffset
    let use: TableUse
    var slot: UInt64 = 0
    var allocated: UInt64 = 0
    var fragmented: UInt64 = 0
    var compressed: UInt64 = 0
    /// Where the next plain cluster would have to be to follow the last one.
    var next: UInt64?

    init(table: HostOffset, use: TableUse) {
        self.table = table
        self.use = use
    }
}

extension ImageChecker {
    /// The guest cluster of an entry, as the table's first use has it.
    private func guest(_ walk: TableWalk) -> GuestOffset {
        GuestOffset(walk.use.index &<< header.l2CoverageBits &+ walk.slot &<< clusterBits)
    }

    private func name(_ walk: TableWalk) -> String {
        walk.use.activeUses > 0 ? "\(guest(walk))" : "entry \(walk.slot) of a snapshot's L2 table"
    }

    func checkEntry(_ raw: UInt64, _ bitmap: UInt64, _ walk: inout TableWalk) throws(ImageError) {
        let word = MappingWord(raw)
        if word.isCompressed { return try checkCompressed(raw, bitmap, &walk) }
        if raw & (MappingWord.l2Reserved | (rules.subclusters ? MappingWord.zeroFlag : 0)) != 0 {
            findBroken("the entry of \(name(walk)) has reserved bits set", at: walk.table)
        }
        if word.hasZeroFlag, header.version < 3 {
            find(.corruption, "\(name(walk)) is a zero cluster, which version 2 does not know", at: walk.table)
        }
        let isMapped = word.offset != 0 || (rules.external && raw & MappingWord.copied != 0)
        if !isMapped, bitmap & 0xffff_ffff != 0 {
            return findBroken("\(name(walk)) has subclusters but no cluster", at: walk.table)
        }
        if bitmap & 0xffff_ffff & (bitmap >> 32) != 0 {
            findBroken("subclusters of \(name(walk)) are zero and allocated at once", at: walk.table)
        }
        guard isMapped else { return }
        walk.allocated += 1
        if let next = walk.next, next != word.offset { walk.fragmented += 1 }
        walk.next = word.offset &+ clusterSize
        try checkCluster(word, bitmap, &walk)
    }

    /// Bytes at the beginning of a plain cluster that hold something: none behind the disk's end, none that read as zeros.
    private func neededBytes(_ word: MappingWord, _ bitmap: UInt64, _ walk: TableWalk) -> UInt64 {
        var needed = clusterSize
        if rules.subclusters {
            let allocated = bitmap & 0xffff_ffff
            needed = UInt64(64 - allocated.leadingZeroBitCount) * (clusterSize >> 5)
        } else if word.hasZeroFlag {
            needed = 0
        }
        let (start, size) = (guest(walk).bytes, walk.use.diskSize)
        // Behind a snapshot's disk there is the state of its virtual machine.
        return start < size ? min(needed, size - start) : needed
    }

    /// The cluster that a plain entry names, with the bits of its subclusters.
    private func checkCluster(_ word: MappingWord, _ bitmap: UInt64, _ walk: inout TableWalk) throws(ImageError) {
        let host = HostOffset(word.offset)
        guard host.bytes & (clusterSize - 1) == 0 else {
            markDangling(host, bytes: clusterSize)
            return findBroken("the data of \(name(walk)) is not cluster aligned", at: host)
        }
        guard !rules.external else {
            if host.bytes != guest(walk).bytes || walk.use.activeUses > 1 {
                find(.corruption, "\(name(walk)) is at another offset in the external data file", at: host)
            } else if let end = options.dataLength, host.bytes &+ neededBytes(word, bitmap, walk) > end {
                find(.corruption, "the data of \(name(walk)) lies past the end of the data file", at: host)
                report.isDataTruncated = true
            }
            return
        }
        let claimed = try claim(
            host, bytes: clusterSize, needed: neededBytes(word, bitmap, walk), as: .data, weight: walk.use.weight,
            "the data of \(name(walk))")
        if claimed != .outside, walk.use.activeUses > 0 { try checkCopied(word.raw, host, name(walk)) }
    }

    private func checkCompressed(_ raw: UInt64, _ bitmap: UInt64, _ walk: inout TableWalk) throws(ImageError) {
        if raw & MappingWord.copied != 0 {
            hasWrongFlags = true
            find(.corruption, "COPIED flag of \(name(walk)): set, though it is compressed", at: walk.table)
        }
        guard !rules.external else {
            return findBroken("\(name(walk)) is compressed in an image with an external data file", at: walk.table)
        }
        guard bitmap == 0 else {
            return findBroken("\(name(walk)) is compressed and has subclusters", at: walk.table)
        }
        let stream = rules.compressedRange(raw)
        walk.allocated += 1
        walk.fragmented += 1
        walk.compressed += 1
        // The stream ends somewhere in its last sector.
        _ = try claim(
            HostOffset(stream.host), bytes: stream.bytes, needed: max(stream.bytes, 512) - 511, as: .data,
            weight: walk.use.weight,
            "the compressed data of \(name(walk))")
    }
}
