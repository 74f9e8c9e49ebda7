// Why this file exists: `qblk doctor`.

import ArgumentParser
import ImageOperations

struct DoctorCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "doctor",
        abstract: "Says what this machine offers for block devices.",
        discussion: """
            What the kernel has, what `map` would choose and why, and what would make it better. With an image: what \
            `map` would choose for that one. Changes nothing, but the kernel may load modules that are asked about.

            Example:
              qblk doctor disk.qcow2
            """)

    @OptionGroup var image: ImageOptions
    @OptionGroup var output: OutputOptions

    @Argument(help: "An image that is to be mapped.")
    var path: String?

    func run() throws {
        let machine = Machine()
        let choice = try path.map { try MapChoice.automatic(path: $0, options: image.open) } ?? machine.choice
        if output.isJSON { return try Output.write(json(machine, choice).text + "\n") }
        var rows = [["kernel", machine.kernel, ""]]
        rows += machine.findings.map { [$0.name, $0.state.rawValue, $0.detail] }
        var text = TextTable.text(rows)
        text += "\nmap: via \(MapChoice.writable.way.rawValue): \(MapChoice.writable.reason)\n"
        text += "map -r: via \(choice.way.rawValue): \(choice.reason)\n"
        for advice in machine.advice { text += "advice: \(advice)\n" }
        try Output.write(text)
    }

    private func json(_ machine: Machine, _ choice: MapChoice) -> JSONValue {
        let findings = machine.findings.map { finding in
            JSONValue.Member(
                key: finding.name,
                value: .members([
                    "state": .string(finding.state.rawValue), "detail": .string(finding.detail),
                ]))
        }
        return .members([
            "kernel": .string(machine.kernel),
            "offers": .object(findings),
            "map": json(MapChoice.writable, machine),
            "map-read-only": json(choice, machine),
            "advice": .strings(machine.advice),
        ])
    }

    private func json(_ choice: MapChoice, _ machine: Machine) -> JSONValue {
        .members([
            "via": .string(choice.way.rawValue), "reason": .string(choice.reason),
            "possible": .bool(choice.way != .loop || machine.canLoop),
        ])
    }
}
