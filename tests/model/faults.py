# SPDX-License-Identifier: GPL-2.0-or-later
"""What is done wrong -> the changes in the model that do it, by model. Each mirrors one that the code had or could have."""

RUNS_WITHOUT_NOTE = [('refusals > 0 -> refusals--; e = DEV_VMM_LOST', 'refusals > 0 -> refusals--')]

FAULTS = {
    'switchover': {
        'a lost peer after GO makes the source resume':
            [('ARC(SRC_GO_SENT, EV_PEER_LOST, SRC_HELD, HOLD)', 'ARC(SRC_GO_SENT, EV_PEER_LOST, SRC_GIVING_UP, RESUME_GUEST)')],
        'GO is sent before the destination is ready':
            [('ARC(SRC_SENDING, EV_SENT, SRC_WAIT_READY, 0)', 'ARC(SRC_SENDING, EV_SENT, SRC_GO_SENT, SEND_GO)')],
        'the last mark of a try that was called off is taken for the next one':
            [('attempt != taken && mark == attempt', 'attempt != taken && mark != 0')],
        'GO that the source cannot note is sent':
            [('if :: !noted -> e = EV_PEER_NEVER_RAN :: else fi', 'if :: !noted -> tell_dst(GO, 0); e = EV_PEER_NEVER_RAN :: else fi')],
        'a destination that refuses GO does not say so':
            [('refusals > 0 -> refusals--; e = DEV_VMM_LOST', 'refusals > 0 -> refusals--; e = DEV_PEER_LOST')],
        'a channel that breaks before GO is not told to the source':
            [('ARC(DST_READY, DEV_CHANNEL_LOST, DST_DISCARDED, DISCARD | TELL_FAILED | FINISH_DST)',
              'ARC(DST_READY, DEV_CHANNEL_LOST, DST_DISCARDED, DISCARD | FINISH_DST)')],
    },
    'registers': {
        'recovery answers a VMM whose migration lives':
            [(':: !over && machine < SRC_GO_SENT -> may_be_stopped = vs != V_RUNNING; e = EV_CANCEL\n'
              '\t\t:: !over && machine >= SRC_GO_SENT\n'
              '\t\t:: over && vs == V_RUNNING',
              ':: !over && machine >= SRC_GO_SENT\n\t\t:: vs == V_RUNNING'),
             ('over && vs == V_PAUSED && (js == J_BEGUN && proof_s || js == J_NEVER)', 'vs == V_PAUSED && (js == J_BEGUN && proof_s || js == J_NEVER)')],
        'a VMM that was cut at RELEASE is not released again':
            [('js == J_DONE -> ask_src(RELEASE_VM)', 'js == J_DONE')],
        'a VMM that refuses RESUME of recovery is asked no more':
            [('cut_src(); vmm_s = DOWN;', 'if :: !over -> cut_src(); vmm_s = DOWN :: else fi;')],
        'a VMM that refuses RUN of recovery is asked no more':
            [('cut_dst(); vmm_d = DOWN;', 'if :: incoming -> cut_dst(); vmm_d = DOWN :: else fi;')],
        '"never" is written before the VMM has resumed, and a closed entry says nothing':
            [('machine == SRC_FAILED && !may_be_stopped && js != J_NONE', 'machine == SRC_FAILED && js != J_NONE'),
             ('(js == J_BEGUN && proof_s || js == J_NEVER) -> ask_src(RESUME)', '(js == J_BEGUN && proof_s) -> ask_src(RESUME)\n\t\t:: over && vs == V_PAUSED && js == J_NEVER')],
    },
    'restarts': {
        'GO leaves before it is in the journal':
            [('note_s(J_GO); SRC_MAY_DIE; tell_dst(GO, 0)', 'tell_dst(GO, 0); SRC_MAY_DIE; note_s(J_GO)')],
        'the guest is run before GO is in the journal':
            [(':: machine == DST_READY -> note_d(J_GO); if :: !noted -> e = DEV_VMM_LOST :: else fi', ':: machine == DST_READY'),
             ('incoming = 2; DST_MAY_DIE; ask_dst(RUN); DST_MAY_DIE', 'incoming = 2; DST_MAY_DIE; ask_dst(RUN); DST_MAY_DIE; note_d(J_GO)')],
        'GO that the destination cannot note is carried out': RUNS_WITHOUT_NOTE,
        'a daemon that starts again resumes though GO was sent':
            [('(js == J_BEGUN && proof_s || js == J_NEVER)', '(js == J_BEGUN && proof_s || js == J_NEVER || js == J_GO)')],
        'a daemon that starts again leaves the guest paused':
            [('(js == J_BEGUN && proof_s || js == J_NEVER) -> ask_src(RESUME)', '(js == J_BEGUN && proof_s || js == J_NEVER)')],
        'a source whose marks are lost resumes from "begun"':
            [('(js == J_BEGUN && proof_s || js == J_NEVER)', '(js == J_BEGUN || js == J_NEVER)')],
        'a destination whose marks are lost says "never" of "begun"':
            [('jd == J_BEGUN && proof_d -> note_d', 'jd == J_BEGUN -> note_d')],
        'PREPARED is said before "begun" is on the disk':
            [('jd = J_BEGUN; is_syncing = true', 'jd = J_BEGUN; is_syncing = true; tell_src(PREPARED, 0)'),
             ('machine == DST_PREPARED -> DST_MAY_DIE; tell_src(PREPARED, 0) :: else fi', 'machine == DST_PREPARED :: else fi')],
        'a journal that was damaged proves "never" by what it lacks':
            [('jd == J_NONE && same_journal -> answer', 'jd == J_NONE -> answer')],
        'a guest that is held after a restart is not the operator\'s':
            [('asks = true; is_held = true', 'asks = true')],
        'a VMM that says that it runs is believed less than "begun"':
            [('vd == V_RUNNING -> assert(jd != J_NEVER); note_d(J_DONE)',
              'vd == V_RUNNING && jd != J_GO && jd != J_NONE -> note_d(J_NEVER)\n\t\t:: vd == V_RUNNING && jd == J_GO -> note_d(J_DONE)'),
             *RUNS_WITHOUT_NOTE],
        'an entry whose outcome is acknowledged is kept':
            [('what == SETTLED -> js = J_NONE', 'what == SETTLED')],
    },
    'strangers': {
        'an entry that does not prove "never" is dropped, and the journal keeps its id':
            [('#define DROP_UNPROVEN jd = J_NONE; same_journal = false', '#define DROP_UNPROVEN jd = J_NONE')],
        'what a stranger acknowledged is forgotten, and then denied':
            [(':: incoming == 0 && (jd == J_DONE || jd', ':: incoming == 0 && jd == J_DONE -> jd = J_NONE; answer!SETTLED\n\t\t:: incoming == 0 && (jd')],
        'a stranger who says that it runs at the source closes an open "go" as if it proved "never"':
            [('(jd == J_NEVER || jd == J_BEGUN && proof_d || jd == J_NONE)', '(jd == J_NEVER || jd == J_GO || jd == J_BEGUN && proof_d || jd == J_NONE)')],
        'an outcome is taken while the guest is being started':
            [('asked == HERE ->\n\t\tasked = 0;\n\t\tif\n', 'asked == HERE ->\n\t\tasked = 0;\n\t\tif\n\t\t:: incoming == 2 -> jd = J_NONE; answer!SETTLED\n')],
        '"never" is said before it is written, of a migration that lives':
            [('if :: incoming == 1 && asked == GO -> e = DEV_CHANNEL_LOST :: else fi', 'skip'),
             ('note_d(J_NEVER); asked = GO; DST_MAY_DIE; asked = 0; answer!R_NEVER', 'answer!R_NEVER')],
        'a question ends a migration that has no GO, and its source is not told':
            [('asked == GO -> e = DEV_CHANNEL_LOST', 'asked == GO -> e = DEV_PEER_LOST')],
        'what nobody has acknowledged is forgotten':
            [('forgets--; e = NOTHING; DROP_UNPROVEN', 'forgets--; e = NOTHING; jd = J_NONE')],
    },
    'two_roles': {
        'a VM of the same name closes the entry of the guest that arrives':
            [('has_namesake = true; e = NOTHING;', 'has_namesake = true; e = NOTHING; if :: jd == J_GO -> note_d(J_DONE) :: else fi;'),
             ('vd == V_LOADED && (jd == J_GO || jd == J_DONE)', 'vd == V_LOADED && jd == J_GO'),
             ('vd == V_LOADED && jd != J_GO && jd != J_DONE', 'vd == V_LOADED && jd != J_GO')],
        'the journal finds an entry by its id alone, and both roles have one':
            [('#define KEY(role) role', '#define KEY(role) 0')],
        'a guest arrives where one of its name runs':
            [('if :: incoming == 1 -> e = DEV_VMM_LOST :: else fi', 'skip')],
    },
}
