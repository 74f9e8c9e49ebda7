// Backing chains whose headers name the next file in every way there is. QEMU writes the names where it can; what it
// refuses to write is patched in, for an image may come from anywhere.

import Foundation
import TestKit

/// Images of 128 KiB that qemu-img made, each filled with bytes that no other has.
struct ImagePattern {
    static let size = 128 << 10
    static let cluster = 4096
    private let block: Data

    init(_ noise: inout SeededRandom) { block = noise.bytes(Self.cluster) }

    private func cluster(_ number: Int) -> Data { Data([UInt8(number), UInt8(number)]) + block.dropFirst(2) }

    /// The bytes of the whole disk.
    var raw: Data { (0..<Self.size / Self.cluster).map(cluster).reduce(into: Data()) { $0 += $1 } }

    /// A qcow2 image with all of them.
    func whole() throws -> Data { try image(layout: 0) { _ in } }

    /// A qcow2 image with some of them, after `change` of its header.
    func image(layout: Int, _ change: (inout Patcher) -> Void) throws -> Data {
        var patcher = try Patcher("\(Self.prototypes.get())/inner\(layout)")
        for number in Self.layouts[layout].joined() { patcher.put(cluster(number), at: patcher.data(number << 12)) }
        change(&patcher)
        return patcher.bytes
    }

    /// An image whose clusters lie in another file, and that file.
    func split(layout: Int, _ change: (inout Patcher) -> Void) throws -> (image: Data, data: Data) {
        var patcher = try Patcher("\(Self.prototypes.get())/outer\(layout)")
        var data = Data(count: Self.size)
        for number in Self.layouts[layout].joined() {
            let place = patcher.data(number << 12)
            data.replaceSubrange(place..<place + Self.cluster, with: cluster(number))
        }
        change(&patcher)
        return (patcher.bytes, data)
    }

    /// Which clusters an image has.
    private static let layouts = [[0..<32], [0..<4, 9..<10, 30..<32], [2..<3, 6..<14, 20..<21]]

    private static let prototypes = Result {
        let builder = ImageBuilder(folder: try Scratch.newFolder("prototypes"))
        for (index, layout) in layouts.enumerated() {
            for (name, option) in [("inner", ""), ("outer", ",data_file=data\(index)")] {
                try builder.create("\(size)", "cluster_size=\(cluster)" + option, as: name + "\(index)")
                let writes = layout.map { "write -q \($0.lowerBound << 12) \($0.count << 12)" }
                try builder.io(writes, on: name + "\(index)")
            }
        }
        return builder.folder
    }
}

extension Patcher {
    /// Writes the names into the header that had none, in place of what extensions it has.
    mutating func putNames(backing: Bytes?, format: String?, data: Bytes?) {
        var place = Int(self[.headerLength])
        removeExtensions()
        let extensions: [(UInt64, Bytes?)] = [(0xe279_2aca, format.map { Array($0.utf8) }), (0x4441_5441, data)]
        for case (let type, let content?) in extensions {
            put(type, at: place, width: 4)
            put(UInt64(content.count), at: place + 4, width: 4)
            put(content, at: place + 8)
            place += 8 + (content.count + 7) & ~7
        }
        put(0, at: place)
        guard let backing else { return }
        put(backing, at: place + 8)
        self[.backingOffset] = UInt64(place + 8)
        self[.backingSize] = UInt64(backing.count)
    }
}

/// A program that has run with words of any bytes.
struct Ran: Error, CustomStringConvertible {
    let line: String
    let outcome: Outcome
    var description: String { "\(line)\n\(outcome)" }
    var exit: Int32? { outcome.exit }

    init(_ words: [Bytes], in folder: Bytes) throws {
        func quoted(_ word: Bytes) -> Bytes {
            let quote = Array("'".utf8)
            return quote
                + word.split(separator: quote[0], omittingEmptySubsequences: false).joined(
                    separator: Array(#"'\''"#.utf8)) + quote
        }
        // A shell's script may have any bytes; the arguments of `Command` are text.
        let script = try Scratch.newFile("sh")
        defer { unlink(script) }
        let command = words.map(quoted).joined(separator: [UInt8(ascii: " ")])
        try Data(Array("cd ".utf8) + quoted(folder) + Array(" && exec ".utf8) + command).write(
            to: URL(filePath: script))
        line = "(cd \(folder.shown) && \(words.map(\.shown)))"
        outcome = try Command(["sh", script]).run()
    }

    /// `file` behind options: one that looks like an option itself stands behind two dashes.
    init(_ options: [String], _ files: [Bytes], in folder: Bytes) throws {
        try self.init((options + ["--"]).map { Array($0.utf8) } + files, in: folder)
    }

    /// A refusal is one line and exit code 1.
    var isRefusal: Bool {
        exit == 1 && outcome.errorLines.count == 1 && outcome.errors.utf8.starts(with: "qblk: ".utf8)
    }
}

private func shownPlace(_ place: Place) -> String { place.map(\.shown).joined(separator: "/") }

struct ReferenceChain: CustomStringConvertible {
    struct Layer: CustomStringConvertible {
        let place: Place
        var isQCOW2 = true
        /// The external data file.
        var data: Place?
        var backing: Bytes?
        /// In the header, and in the JSON of the name.
        var format: String?
        var driver: String?

        var description: String {
            "\(shownPlace(place))\(isQCOW2 ? "" : ", raw")\(data.map { ", data in " + shownPlace($0) } ?? "")"
                + (backing.map { " -> \($0.shown) as \(format ?? "any")" } ?? "")
        }
    }
    fileprivate(set) var layers: [Layer]
    /// The folder in which commands run, and a name of it.
    let folder: Place
    let workingFolder: Bytes
    /// How commands name the topmost image.
    let image: Bytes
    /// Whether QEMU may look for a data file where this program does not: in the folder of the command.
    fileprivate(set) var hasRelativeDataFile = false

    var description: String { layers.map(\.description).joined(separator: "\n") }
    var files: [Place] { layers.flatMap { [$0.place] + ($0.data.map { [$0] } ?? []) } }
    /// As QEMU's command line wants it, which takes a word with a colon for a protocol.
    var imageForQEMU: Bytes { image.hasProtocol ? Array("./".utf8) + image : image }
}

extension RandomTree {
    /// A new chain of one to four of the tree's files; `alias` makes a name for the topmost image.
    mutating func newChain(_ alias: (inout RandomTree, Place) throws -> Place) throws -> ReferenceChain {
        var places = files.shuffled(using: &noise)
        let count = 1 + noise.below(4)
        let folder = chance(1, in: 6) ? [] : pick(folders)
        let top = try alias(&self, places[0])
        var chain = ReferenceChain(
            layers: places.prefix(count).map { ReferenceChain.Layer(place: $0) }, folder: folder,
            workingFolder: way(to: folder + [Array(".".utf8)], from: nil, standingIn: []),
            image: spelled(top, from: chance(2, in: 3) ? folder : nil))
        places.removeFirst(count)
        chain.layers[count - 1].isQCOW2 = count == 1 || chance(2, in: 3)
        for index in 0..<count where chain.layers[index].isQCOW2 && chance(1, in: 6) {
            chain.layers[index].data = places.removeFirst()
        }
        for index in 0..<count {
            let next = index + 1 < count ? chain.layers[index + 1] : nil
            if let next { name(next, in: &chain.layers[index], folder) }
            try write(&chain, index)
        }
        return chain
    }

    /// Chooses how an overlay names the image beneath it.
    private mutating func name(_ next: ReferenceChain.Layer, in layer: inout ReferenceChain.Layer, _ folder: Place) {
        let (place, own) = (anyName(of: next.place), Array(layer.place.dropLast()))
        let working = chance(2, in: 3) ? folder : nil
        switch noise.below(9) {
        case 0...4: layer.backing = spelled(place, from: own)
        case 5: layer.backing = spelled(place)
        case 6: layer.backing = Array("file:".utf8) + spelled(place, from: working)
        default:
            layer.driver =
                chance(1, in: 3) ? nil : pick(next.isQCOW2 ? ["qcow2", "qcow2", "raw", "file"] : ["raw", "file"])
            layer.backing = json(layer.driver, spelled(place, from: working))
        }
        let formats =
            next.isQCOW2 ? ["qcow2", "qcow2", "qcow2", "qcow2", "raw", "file", nil] : ["raw", "raw", "file", nil]
        layer.format = pick(formats)
    }

    private mutating func json(_ driver: String?, _ path: Bytes) -> Bytes {
        let quote = UInt8(ascii: chance(1, in: 5) ? "'" : "\"")
        // Choices of their own: how many there are depends on where the scratch folder lies, and a seed must not.
        var choices = SeededRandom(noise.next())
        func text(_ content: Bytes) -> Bytes { [quote] + content + [quote] }
        var name: Bytes = []
        for byte in path {
            if byte < 0x20 || byte < 0x80 && choices.below(12) == 0 {
                name += Array(String(format: "\\u%04x", byte).utf8)
            } else {
                name += byte == quote || byte == UInt8(ascii: "\\") ? [UInt8(ascii: "\\"), byte] : [byte]
            }
        }
        func pair(_ key: String, _ value: Bytes) -> Bytes { text(Array(key.utf8)) + Array(":".utf8) + value }
        func object(_ pairs: [Bytes]) -> Bytes {
            Array("{".utf8) + pairs.joined(separator: Array(",".utf8)) + Array("}".utf8)
        }
        let drivers = driver.map { [pair("driver", text(Array($0.utf8)))] } ?? []
        let file = [pair("filename", text(name))]
        if driver == "file" { return Array("json:".utf8) + object(drivers + file) }
        if chance(1, in: 2) { return Array("json:".utf8) + object(drivers + [pair("file.filename", text(name))]) }
        let bare = chance(1, in: 2) ? [] : [pair("driver", text(Array("file".utf8)))]
        return Array("json:".utf8) + object(drivers + [pair("file", object(bare + file))])
    }

    /// Writes a layer's file, or two.
    private mutating func write(_ chain: inout ReferenceChain, _ index: Int) throws {
        let layer = chain.layers[index]
        let pattern = ImagePattern(&noise)
        let layout = layer.backing == nil || chance(1, in: 8) ? 0 : 1 + noise.below(2)
        if let data = layer.data {
            let base = chance(2, in: 3) ? Array(layer.place.dropLast()) : nil
            let name = spelled(anyName(of: data), from: base)
            if base != nil { chain.hasRelativeDataFile = true }
            let (image, content) = try pattern.split(layout: layout) {
                $0.putNames(backing: layer.backing, format: layer.format, data: name)
            }
            try write(content, to: data)
            try write(image, to: layer.place)
        } else if layer.isQCOW2, let backing = layer.backing {
            let byQEMU = chance(1, in: 2) ? layer.format : nil
            let image = try pattern.image(layout: layout) {
                if byQEMU == nil { $0.putNames(backing: backing, format: layer.format, data: nil) }
            }
            try write(image, to: layer.place)
            guard let byQEMU else { return }
            let rebase = ["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", byQEMU, "-b"].map { Array($0.utf8) }
            let ran = try Ran(rebase + [backing, path(layer.place)], in: path([]))
            guard ran.exit == 0 else { throw ran }
        } else {
            try write(layer.isQCOW2 ? pattern.whole() : pattern.raw, to: layer.place)
        }
    }

    /// The disk as QEMU reads it when every name in a header leads where it was meant to: from copies that are named anew.
    func meant(by chain: ReferenceChain, _ content: (Place) throws -> Data) throws -> Data {
        try Scratch.withFolder("copies") { folder in
            let builder = ImageBuilder(folder: folder)
            var isOpaque = false
            for (index, layer) in chain.layers.enumerated() {
                try content(layer.place).write(to: URL(filePath: builder.path("\(index)")))
                if let data = layer.data { try content(data).write(to: URL(filePath: builder.path("data\(index)"))) }
                // What is taken for raw is read as it is, header and all.
                guard layer.isQCOW2, !isOpaque else { break }
                isOpaque = ["raw", "file"].contains(layer.format ?? layer.driver)
                try builder.patch("\(index)") {
                    $0.putNames(
                        backing: layer.backing.map { _ in Array("\(index + 1)".utf8) },
                        format: layer.format ?? layer.driver, data: layer.data.map { _ in Array("data\(index)".utf8) })
                }
            }
            try builder.img("convert", "-f", "qcow2", "-O", "raw", "0", "disk")
            return try Data(contentsOf: URL(filePath: builder.path("disk")))
        }
    }
}
